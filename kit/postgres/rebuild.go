package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Rebuilding rebuilds the table of a read model from all events of its projection's category, while the service runs (ADR 28).
type Rebuilding struct {
	DSN        string
	Table      string
	Projection cqrs.Projection
	Types      aggregate.Types

	// Progress is called after each page with the number of events read, the position reached, and the last position at the start.
	Progress func(events int, position, last int64)

	// Failed stores an event that the projection cannot process, so that the rebuild continues with the others. If it returns an error, the
	// rebuild fails.
	Failed func(ctx context.Context, e cqrs.Event, cause error) error

	live, beside *sqlx.DB // beside has one connection, on which Table is a temporary table
	target       string   // Table, with its schema
	handlers     map[reflect.Type]cqrs.EventHandler
	reader       *eventstore.Reader
	early        map[int64]bool // positions of events that were handled before the reader returned them
	events       int
	last         int64
}

const (
	// rebuildPage is the number of events that are read and written at a time.
	rebuildPage = 2000

	// A rebuild replaces the rows under a lock for which the projection's writes wait. If it does not get the lock within lockFor, it lets the
	// waiting writes pass and tries again. The replacement takes at most replaceFor.
	lockFor      = "2s"
	replaceFor   = "5min"
	maxReplacing = 30
)

// Run rebuilds the table and returns the number of events read. If it fails, the table is unchanged.
func (r *Rebuilding) Run(ctx context.Context) (events int, err error) {
	if r.live, err = Open(r.DSN, 4); err != nil {
		return 0, err
	}
	defer r.live.Close() //nolint:errcheck // nothing is pending
	if err := r.live.GetContext(ctx, &r.target, `SELECT format('%I.%I', nspname, relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1::regclass`, pgx.Identifier{r.Table}.Sanitize()); err != nil { //nolint:misspell // its author's spelling
		return 0, txn.Classify(err, "look for the table "+r.Table)
	}
	guard, err := r.live.Connx(ctx)
	if err != nil {
		return 0, txn.Classify(err, "connect")
	}
	defer guard.Close() //nolint:errcheck // the lock goes with the connection
	var first bool
	if err := guard.GetContext(ctx, &first, `SELECT pg_try_advisory_lock(hashtextextended('millrace rebuild ' || $1, 0))`, r.target); err != nil {
		return 0, txn.Classify(err, "begin to rebuild")
	}
	if !first {
		return 0, errors.New("another rebuild of " + r.Table + " is running")
	}
	if err := r.live.GetContext(ctx, &r.last, `SELECT COALESCE(max(position), 0) FROM events`); err != nil {
		return 0, txn.Classify(err, "read the last position")
	}
	if r.beside, err = openBeside(r.DSN); err != nil {
		return 0, err
	}
	defer r.beside.Close()                     //nolint:errcheck // the temporary table goes with the connection
	name := pgx.Identifier{r.Table}.Sanitize() //nolint:misspell // its author's spelling
	if _, err := r.beside.ExecContext(ctx, `CREATE TEMPORARY TABLE `+name+` (LIKE `+r.target+` INCLUDING ALL)`); err != nil {
		return 0, txn.Classify(err, "make a temporary table beside "+r.Table)
	}
	r.reader = eventstore.New(r.live, r.Types).Read(0).Of(r.Projection.Category)
	r.handlers, r.early = r.Projection.Handlers(), map[int64]bool{}
	for attempt := 1; ; attempt++ {
		if err := r.catchUp(ctx); err != nil {
			return r.events, err
		}
		again, err := r.replace(ctx)
		if !again || attempt == maxReplacing || ctx.Err() != nil {
			return r.events, err
		}
		time.Sleep(time.Second)
	}
}

// openBeside opens a pool of one connection, which is never replaced: a new connection would not have the temporary table, and its statements
// would write to the live table of the same name.
func openBeside(dsn string) (*sqlx.DB, error) {
	config, err := txn.Config(dsn, map[string]string{"application_name": "millrace rebuild"})
	if err != nil {
		return nil, err
	}
	var connected atomic.Bool
	db := sqlx.NewDb(stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(func(context.Context, *pgx.ConnConfig) error {
		if connected.Swap(true) {
			return errConnectionLost
		}
		return nil
	})), "pgx")
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	return db, nil
}

var errConnectionLost = errors.New("the connection with the temporary table was lost: start the rebuild again")

// catchUp processes the events up to the current end of the store.
func (r *Rebuilding) catchUp(ctx context.Context) error {
	for {
		page, err := r.reader.Next(ctx, rebuildPage)
		if err != nil || len(page) == 0 {
			return err
		}
		units, err := r.handle(ctx, page)
		if err != nil {
			return err
		}
		if err := r.write(ctx, units); err != nil {
			return err
		}
		r.Progress(r.events, page[len(page)-1].Position, r.last)
	}
}

// handled is an event, and the writes of its handler.
type handled struct {
	event cqrs.Event
	unit  *txn.Unit
}

// handle calls the handlers, once for each event, because a projection may keep state.
func (r *Rebuilding) handle(ctx context.Context, page []cqrs.Event) (all []handled, err error) {
	for _, e := range page {
		if r.early[e.Position] {
			delete(r.early, e.Position)
			continue
		}
		r.events++
		h, ok := r.handlers[reflect.TypeOf(e.Body)]
		if !ok {
			continue
		}
		if e.Meta.SagaID == "" {
			e.Meta.SagaID = e.Key
		}
		inner, unit := txn.NewUnit(ctx, r.beside)
		err := cqrs.Protect(func() error { return h.Handle(cqrs.WithMeta(inner, e.Meta), e) })
		if err == nil {
			all = append(all, handled{e, unit})
		} else if err := r.failed(ctx, e, err); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// write writes the effects of events into the temporary table. If that fails, it writes them in halves, so that an event that cannot be
// written fails alone.
func (r *Rebuilding) write(ctx context.Context, all []handled) error {
	if len(all) == 0 {
		return nil
	}
	err := txn.Commit(ctx, r.beside, unitsOf(all))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, txn.IsUnavailable(err), errors.Is(err, errConnectionLost):
		return err
	case len(all) == 1:
		return r.failed(ctx, all[0].event, err)
	}
	if err := r.write(ctx, all[:len(all)/2]); err != nil {
		return err
	}
	return r.write(ctx, all[len(all)/2:])
}

func unitsOf(all []handled) []*txn.Unit {
	units := make([]*txn.Unit, len(all))
	for i, h := range all {
		units[i] = h.unit
	}
	return units
}

func (r *Rebuilding) failed(ctx context.Context, e cqrs.Event, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.Failed(ctx, e, cause); err != nil {
		return fmt.Errorf("event %d of %s: %w", e.Meta.Version, e.Meta.Subject, errors.Join(cause, err))
	}
	return nil
}

// replace replaces the live rows by those of the temporary table, in one transaction that processes the last events first. The projection's
// writes wait for it. Their earlier writes come from committed events, which the rebuild has read too; their later writes go to the new rows.
// Readers do not wait. Equal rows are not touched. Again says that another attempt may succeed.
func (r *Rebuilding) replace(ctx context.Context) (again bool, err error) {
	built := pgx.Identifier{"pg_temp", r.Table}.Sanitize()                 //nolint:misspell // its author's spelling
	if _, err := r.beside.ExecContext(ctx, `ANALYZE `+built); err != nil { //nolint:misspell // SQL
		return false, txn.Classify(err, "gather statistics of the temporary table")
	}
	inner, unit := txn.NewUnit(ctx, r.beside)
	defer unit.Close()
	tx, err := txn.FromContext(inner)
	if err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = '`+lockFor+`'; SET LOCAL statement_timeout = '`+replaceFor+`'; LOCK TABLE `+r.target+` IN SHARE ROW EXCLUSIVE MODE`); err != nil {
		pg, ok := errors.AsType[*pgconn.PgError](err)
		return ok && (pg.Code == "55P03" || pg.Code == "40P01"), txn.Classify(err, "lock "+r.target)
	}
	page, err := r.reader.Committed(ctx)
	if err != nil {
		return false, err
	}
	late, err := r.handle(ctx, page)
	if err != nil {
		return false, err
	}
	for _, e := range page {
		r.early[e.Position] = true
	}
	if err := r.writeReplacement(inner, tx, built); err != nil {
		return false, err
	}
	err = txn.Commit(ctx, r.beside, append([]*txn.Unit{unit}, unitsOf(late)...))
	if err == nil || ctx.Err() != nil || txn.IsUnavailable(err) {
		return false, err
	}
	unit.Close()
	if writeErr := r.write(ctx, late); writeErr != nil { // which finds the event that can never be written
		return false, errors.Join(err, writeErr)
	}
	return len(late) > 0, err
}

// writeReplacement adds the statements that replace the rows, which are executed last in the transaction. Rows are compared as text, because not every type
// (json) has equality.
func (r *Rebuilding) writeReplacement(ctx context.Context, tx *sqlx.Tx, built string) error {
	var names []string
	err := tx.SelectContext(ctx, &names, `SELECT quote_ident(attname) FROM pg_attribute
		WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`, r.target)
	if err != nil {
		return txn.Classify(err, "read the columns of "+r.Table)
	}
	columns := strings.Join(names, ", ")
	for i, query := range []string{
		`DELETE FROM ` + r.target + ` old_row WHERE NOT EXISTS (SELECT FROM ` + built + ` new_row WHERE new_row::text = old_row::text)`,
		`INSERT INTO ` + r.target + ` (` + columns + `) OVERRIDING SYSTEM VALUE SELECT ` + columns + ` FROM ` + built + ` new_row
			WHERE NOT EXISTS (SELECT FROM ` + r.target + ` old_row WHERE old_row::text = new_row::text)`,
	} {
		statement := &txn.Statement[struct{}]{
			Doing: "replace the rows of " + r.Table, Rank: 1000 + i,
			Query: func([]struct{}) (string, []any, error) { return query, nil, nil },
		}
		if err := statement.Write(ctx, struct{}{}); err != nil {
			return err
		}
	}
	return nil
}
