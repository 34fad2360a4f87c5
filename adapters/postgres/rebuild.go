package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/eventstore"
	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/aggregate"
)

// rebuildPage is how many events a rebuilding reads, and writes the effects of, at a time.
const rebuildPage = 2000

// shadow is the schema in which a table is built beside the one that is in use. One rebuilding at a time holds it.
const shadow = "millrace_rebuild"

// Rebuild builds the table of a read model anew from all events of its projection's category, while the service runs, and then puts it in
// the place of the old one. What happens meanwhile is caught up with afterwards; for that moment, what changes the table may have to be tried
// again, and is. Progress is told after each page: the position that was read up to, of the last one when it began.
func Rebuild(ctx context.Context, dsn, table string, p app.Projection, types aggregate.Types, progress func(events int, position, last int64)) (events int, err error) {
	live, err := Open(dsn, 4)
	if err != nil {
		return 0, err
	}
	defer live.Close() //nolint:errcheck // nothing is pending
	guard, err := live.Connx(ctx)
	if err != nil {
		return 0, txn.Classify(err, "connect")
	}
	defer guard.Close() //nolint:errcheck // the lock goes with the connection
	var first bool
	if err := guard.GetContext(ctx, &first, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, shadow); err != nil {
		return 0, txn.Classify(err, "begin to rebuild")
	}
	if !first {
		return 0, errors.New("another rebuilding is under way")
	}
	name := pgx.Identifier{table}.Sanitize() //nolint:misspell // its author's spelling
	if _, err := live.ExecContext(ctx, `DROP SCHEMA IF EXISTS `+shadow+` CASCADE; CREATE SCHEMA `+shadow+`; CREATE TABLE `+shadow+`.`+name+` (LIKE public.`+name+` INCLUDING ALL)`); err != nil {
		return 0, txn.Classify(err, "make a table beside "+table)
	}
	defer func() {
		_, dropErr := live.ExecContext(context.WithoutCancel(ctx), `DROP SCHEMA IF EXISTS `+shadow+` CASCADE`)
		err = errors.Join(err, dropErr)
	}()
	var last int64
	if err := live.GetContext(ctx, &last, `SELECT COALESCE(max(position), 0) FROM events`); err != nil {
		return 0, txn.Classify(err, "read the last position")
	}
	beside, err := openIn(dsn, shadow)
	if err != nil {
		return 0, err
	}
	defer beside.Close() //nolint:errcheck // nothing is pending
	b := &rebuilding{projection: p, reader: eventstore.New(live, types).Read(0).Of(p.Category), progress: progress, last: last, handlers: map[reflect.Type]app.EventHandler{}}
	for _, h := range p.On {
		b.handlers[h.Type] = h
	}
	if err := b.run(ctx, beside); err != nil {
		return b.events, err
	}
	_, err = live.ExecContext(ctx, `BEGIN; SET LOCAL lock_timeout = '30s'; LOCK TABLE public.`+name+` IN ACCESS EXCLUSIVE MODE;
		DROP TABLE public.`+name+`; ALTER TABLE `+shadow+`.`+name+` SET SCHEMA public; COMMIT`)
	if err != nil {
		return b.events, txn.Classify(err, "put the new table in the place of "+table)
	}
	return b.events, b.run(ctx, live) // what came meanwhile
}

func openIn(dsn, schema string) (*sqlx.DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("not a PostgreSQL connection string: %w", err)
	}
	config.RuntimeParams["search_path"] = schema + ", public"
	config.RuntimeParams["application_name"] = "millrace rebuild"
	db := sqlx.NewDb(stdlib.OpenDB(*config), "pgx")
	db.SetMaxOpenConns(2)
	return db, nil
}

// rebuilding feeds a projection from the event store.
type rebuilding struct {
	projection app.Projection
	handlers   map[reflect.Type]app.EventHandler
	reader     *eventstore.Reader
	progress   func(events int, position, last int64)
	events     int
	last       int64
}

// run goes on to the end that the store has now.
func (b *rebuilding) run(ctx context.Context, db *sqlx.DB) error {
	for {
		page, err := b.reader.Next(ctx, rebuildPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for attempt := 1; ; attempt++ {
			err := b.write(ctx, db, page)
			if err == nil {
				break
			}
			if attempt == maxConflicts || ctx.Err() != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond) // the service writes the same rows
		}
		b.events += len(page)
		b.progress(b.events, page[len(page)-1].Position, b.last)
	}
}

func (b *rebuilding) write(ctx context.Context, db *sqlx.DB, page []app.Event) error {
	inner, unit := txn.NewUnit(ctx, db)
	defer unit.Close()
	for _, e := range page {
		h, ok := b.handlers[reflect.TypeOf(e.Body)]
		if !ok {
			continue
		}
		m := e.Meta
		if m.SagaID == "" {
			m.SagaID = e.Key
		}
		e.Meta = m
		if err := h.Handle(app.WithMeta(inner, m), e); err != nil {
			return fmt.Errorf("%s of %s: %w", m.Type, m.Subject, err)
		}
	}
	return txn.Commit(ctx, db, []*txn.Unit{unit})
}
