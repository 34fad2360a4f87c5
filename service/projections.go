package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/adapters/embedded"
	"github.com/millrace/millrace/adapters/postgres"
	"github.com/millrace/millrace/adapters/postgres/readmodel"
	"github.com/millrace/millrace/domain/aggregate"
)

// listProjections prints them.
func (p program) listProjections(context.Context) error {
	for _, m := range readmodel.All() {
		way := "by way of Kafka"
		if m.Inline {
			way = "with the events"
		}
		_, _ = fmt.Fprintf(p.stdout, "%-10s table %-12s from events.%-12s written %s\n", m.Name, m.Table, m.Category, way)
	}
	return nil
}

// rebuild builds a read model anew from the event store, of a service that runs or of one that does not.
func (p program) rebuild(ctx context.Context, name string, say func(done float64, text string)) (err error) {
	all := readmodel.All()
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
		dsn = embedded.Running(p.config.DataDir) // that of a service beside us
	}
	if dsn == "" {
		var stop func() error
		if dsn, stop, err = p.database(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	var facts []aggregate.Types
	for _, types := range kinds() {
		facts = append(facts, types)
	}
	began := time.Now()
	events, err := postgres.Rebuild(ctx, dsn, all[at].Table, all[at].Projection, aggregate.Merge(facts...), func(events int, position, last int64) {
		say(min(1, float64(position)/float64(max(last, 1))), fmt.Sprintf("%d events, %.0f/s", events, float64(events)/time.Since(began).Seconds()))
	})
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", name, err)
	}
	_, _ = fmt.Fprintf(p.stdout, "%s: rebuilt from %d events in %.1f s\n", name, events, time.Since(began).Seconds())
	return nil
}
