package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/readmodel"
)

// listProjections prints the projections, with the number of dead letters of each if there is a database.
func (p *Program) listProjections(ctx context.Context) error {
	dsn := p.config.PostgresDSN
	if dsn == "" {
		dsn = embedded.Running(p.config.DataDir)
	}
	failed := func(string) (string, error) { return "", nil }
	if dsn != "" {
		db, err := postgres.Open(dsn, 1)
		if err != nil {
			return fmt.Errorf("POSTGRES_DSN: %w", err)
		}
		defer db.Close() //nolint:errcheck // nothing is pending
		letters := deadletter.New(db)
		failed = func(projection string) (string, error) {
			n, err := letters.CountOf(ctx, messaging.ProjectionConsumer(p.config.TopicPrefix, projection))
			return fmt.Sprintf("  dead letters: %d", n), err
		}
	}
	for _, m := range p.def.readModels() {
		way := "from the broker"
		if m.Inline {
			way = "with the events"
		}
		letters, err := failed(m.Name)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(p.stdout, "%-10s table %-12s from events.%-12s written %s%s\n", m.Name, m.Table, m.Category, way, letters)
	}
	return nil
}

// rebuild rebuilds a read model from the event store. The service may be running or stopped.
func (p *Program) rebuild(ctx context.Context, name string, logf func(done float64, text string)) (err error) {
	all := p.def.readModels()
	at := slices.IndexFunc(all, func(m readmodel.Model) bool { return m.Name == name })
	if at < 0 {
		var names []string
		for _, m := range all {
			names = append(names, m.Name)
		}
		return fmt.Errorf("there is no projection %q; there are %s", name, strings.Join(names, ", "))
	}
	var dsn string
	if p.config.PostgresDSN == "" {
		dsn = embedded.Running(p.config.DataDir) // the DSN of a running service
	}
	if dsn == "" {
		var stop func() error
		if dsn, stop, err = p.database(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	db, err := postgres.Open(dsn, 1)
	if err != nil {
		return fmt.Errorf("POSTGRES_DSN: %w", err)
	}
	defer db.Close() //nolint:errcheck // nothing is pending
	var stored []aggregate.Types
	for _, types := range p.def.types() {
		stored = append(stored, types)
	}
	types := aggregate.Merge(stored...)
	failed, began := 0, time.Now()
	r := postgres.Rebuilding{
		DSN: dsn, Table: all[at].Table, Projection: all[at].Projection, Types: types,
		Progress: func(events int, position, last int64) {
			logf(min(1, float64(position)/float64(max(last, 1))), fmt.Sprintf("%d events, %.0f/s", events, float64(events)/time.Since(began).Seconds()))
		},
		Failed: func(ctx context.Context, e cqrs.Event, cause error) error {
			failed++
			return p.keepFailed(ctx, deadletter.New(db), messaging.NewMarshaler(types, "/"+p.config.TopicPrefix), name, e, cause)
		},
	}
	events, err := r.Run(ctx)
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", name, err)
	}
	_, _ = fmt.Fprintf(p.stdout, "%s: rebuilt from %d events in %.1f s\n", name, events, time.Since(began).Seconds())
	if failed > 0 {
		_, _ = fmt.Fprintf(p.stdout, "%s: %d events cannot be processed and are dead letters\n", name, failed)
	}
	return nil
}

// keepFailed stores an event that a projection cannot process as a dead letter of its consumer.
func (p *Program) keepFailed(ctx context.Context, letters *deadletter.Store, m messaging.Marshaler, projection string, e cqrs.Event, cause error) error {
	msg, err := m.Marshal(e)
	if err != nil {
		return err
	}
	p.log.Warn("projection failed, event is a dead letter", "projection", projection, "event", e.Meta.ID, "subject", e.Meta.Subject, "error", cause)
	return letters.Keep(ctx, cqrs.Received{
		Key:   cqrs.MessageKey{Consumer: messaging.ProjectionConsumer(p.config.TopicPrefix, projection), Key: e.Key},
		Topic: messaging.EventTopic(p.config.TopicPrefix, e.Category), ID: msg.UUID, Headers: msg.Metadata, Payload: msg.Payload,
	}, cause.Error())
}
