package runner

import (
	"context"
	"database/sql"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/postgres/sagawaits"
	"github.com/millrace/millrace/kit/postgres/txn"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
	"github.com/millrace/millrace/kit/telemetry"
)

// gauges registers the metrics that are read when they are scraped, at most once a second. The queries get slower neither with the history nor with
// a backlog, because they count at most outbox.MaxCounted messages.
func (s *Instance) gauges() {
	s.telemetry.Registry.MustRegister(collectors.NewDBStatsCollector(s.db.DB, "millrace"))
	s.telemetry.Gauges([]telemetry.Gauge{
		{Name: "millrace_outbox_pending", Help: "Messages in the outbox that are due. At most 10000 are counted."},
		{Name: "millrace_outbox_delayed", Help: "Messages in the outbox that are not due yet: timers. At most 10000 are counted."},
		{Name: "millrace_outbox_parked", Help: "Messages behind a message of their key that the broker refused. At most 10000 are counted."},
		{Name: "millrace_outbox_suspended", Help: "Messages of suspended topics. At most 10000 are counted."},
		{Name: "millrace_outbox_suspended_topics", Help: "Topics to which sending fails. The relay retries them; other topics are not affected."},
		{Name: "millrace_outbox_oldest_seconds", Help: "Age of the oldest message in the outbox that is due."},
		{Name: "millrace_blocked_keys", Help: "Keys whose messages wait because one of them failed, by consumer. At most 10000 are counted.", Labels: []string{"consumer"}},
		{Name: "millrace_waiting_messages", Help: "Messages of blocked keys, which wait to be retried or for an earlier message of their key. At most 10000 are counted."},
		{Name: "millrace_dead_letters", Help: "Dead letters. At most 10000 are counted."},
		{Name: "millrace_saga_unmatched_events", Help: "Events that no saga waits for, or not yet, by definition. At most 10000 are counted.", Labels: []string{"definition"}},
		{Name: "millrace_sagas", Help: "Sagas that have not ended, by definition and status. At most 10000 are counted.", Labels: []string{"definition", "status"}},
	}, func() ([]telemetry.Sample, error) {
		figures := s.figures.get(func() figures { samples, err := s.readDatabase(); return figures{samples, err} })
		return figures.samples, figures.err
	})
	s.telemetry.Gauges([]telemetry.Gauge{
		{Name: "millrace_breaker_state", Help: "0 while the breaker is closed, 0.5 while it is half-open, 1 while it is open.", Labels: []string{"destination"}},
		{Name: "millrace_relay_shards", Help: "Shards of the outbox that this instance relays."},
	}, func() (samples []telemetry.Sample, err error) {
		for name, b := range s.breakers {
			samples = append(samples, telemetry.Sample{Name: "millrace_breaker_state", Labels: []string{name},
				Value: map[string]float64{"closed": 0, "half-open": 0.5, "open": 1}[b.Snapshot().State]})
		}
		if s.relay != nil {
			samples = append(samples, telemetry.Sample{Name: "millrace_relay_shards", Value: float64(s.relay.Held())})
		}
		return samples, nil
	})
}

// figures are the last results of the queries for gauges.
type figures struct {
	samples []telemetry.Sample
	err     error
}

// scrapeTimeout limits the time of the queries of one scrape.
const scrapeTimeout = 5 * time.Second

func (s *Instance) readDatabase() ([]telemetry.Sample, error) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	b, err := outbox.LoadBacklog(ctx, s.db)
	if err != nil {
		return nil, err
	}
	suspended, err := outbox.SuspendedTopics(ctx, s.db)
	if err != nil {
		return nil, err
	}
	dead, err := deadletter.New(s.db).Count(ctx)
	if err != nil {
		return nil, err
	}
	blocked, waiting, err := s.core.keyQueue.Count(ctx)
	if err != nil {
		return nil, err
	}
	open, err := readmodel.NewSagas(s.db).Open(ctx, outbox.MaxCounted)
	if err != nil {
		return nil, err
	}
	samples := []telemetry.Sample{
		{Name: "millrace_outbox_pending", Value: float64(b.Pending)}, {Name: "millrace_outbox_delayed", Value: float64(b.Delayed)},
		{Name: "millrace_outbox_parked", Value: float64(b.Blocked)}, {Name: "millrace_outbox_oldest_seconds", Value: b.Oldest},
		{Name: "millrace_outbox_suspended", Value: float64(b.Suspended)}, {Name: "millrace_outbox_suspended_topics", Value: float64(len(suspended))},
		{Name: "millrace_dead_letters", Value: float64(dead)}, {Name: "millrace_waiting_messages", Value: float64(waiting)},
	}
	for consumer, n := range blocked {
		samples = append(samples, telemetry.Sample{Name: "millrace_blocked_keys", Labels: []string{consumer}, Value: float64(n)})
	}
	unmatched, err := sagawaits.Count(ctx, s.db, outbox.MaxCounted)
	if err != nil {
		return nil, err
	}
	for _, sg := range s.core.sagas { // definitions without messages or sagas report 0
		if sg == s.saga(sg.Name()) && len(sg.AwaitedEvents()) > 0 {
			samples = append(samples, telemetry.Sample{Name: "millrace_saga_unmatched_events", Labels: []string{sg.Name()}, Value: float64(unmatched[sg.Name()])})
		}
		for _, status := range []saga.Status{saga.StatusRunning, saga.StatusCompensating, saga.StatusStuck} {
			if sg == s.saga(sg.Name()) {
				key := readmodel.OpenSagas{Definition: sg.Name(), Status: status}
				samples = append(samples, telemetry.Sample{Name: "millrace_sagas", Labels: []string{sg.Name(), string(status)}, Value: float64(open[key])})
			}
		}
	}
	return samples, nil
}

// measured reports how long each saga took, after the end of the saga is committed.
type measured struct {
	manager.Rows
	ended func(definition, status string, took time.Duration)
}

// Save implements manager.Rows.
func (m measured) Save(ctx context.Context, state saga.State) error {
	if state.Status.Ended() && state.EndedAt != nil {
		txn.UnitFromContext(ctx).After(func() { m.ended(state.Definition, string(state.Status), state.EndedAt.Sub(state.StartedAt)) })
	}
	return m.Rows.Save(ctx, state)
}

var (
	descForm  = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	constForm = regexp.MustCompile(`constLabels: \{([a-z_]+)=`)
)

// Metrics returns the names of all metrics that an instance can report, with their labels, for tests of alerts and dashboards.
func Metrics() map[string][]string {
	db := sqlx.NewDb(sql.OpenDB(nil), "pgx") // never connected
	s := &Instance{db: db, telemetry: telemetry.New(slog.New(slog.DiscardHandler))}
	s.gauges()
	descriptions := make(chan *prometheus.Desc, 1000)
	s.telemetry.Registry.Describe(descriptions)
	close(descriptions)
	known := map[string][]string{}
	for d := range descriptions {
		found := descForm.FindStringSubmatch(d.String())
		labels := append(strings.Split(found[2], ","), "le", "instance", "job")
		for _, constant := range constForm.FindAllStringSubmatch(d.String(), -1) {
			labels = append(labels, constant[1])
		}
		known[found[1]] = labels
	}
	return known
}
