// Package telemetry watches: one log line, one measurement and one span for each thing that is handled, and the metrics that
// the rest of the service reports.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"

	"github.com/millrace/millrace/app"
)

// Telemetry is the registry of metrics and what is counted in it.
type Telemetry struct {
	Registry *prometheus.Registry
	Relayed  prometheus.Counter
	log      *slog.Logger
	handled  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	changes  *prometheus.CounterVec
}

// New makes the metrics. Their names begin with millrace_.
func New(log *slog.Logger) *Telemetry {
	registry := prometheus.NewRegistry()
	t := &Telemetry{
		Registry: registry, log: log,
		Relayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_outbox_relayed_total", Help: "Messages that the broker has acknowledged.",
		}),
		handled: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_handled_seconds", Help: "Time of one attempt to handle a command, event or query, by what it is and how it went.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"kind", "name", "result"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_messages_failed_total", Help: "Attempts that failed, by consumer and what became of the message: retried, delayed, dead.",
		}, []string{"consumer", "then"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_breaker_changes_total", Help: "Transitions of circuit breakers, by destination and new state.",
		}, []string{"destination", "to"}),
	}
	registry.MustRegister(t.Relayed, t.handled, t.failures, t.changes, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return t
}

// Gauge registers a metric that is read when it is asked for.
func (t *Telemetry) Gauge(name, help string, value func() float64) {
	t.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// Failed counts an attempt that failed.
func (t *Telemetry) Failed(consumer, then string) { t.failures.WithLabelValues(consumer, then).Inc() }

// BreakerChanged counts and logs a transition.
func (t *Telemetry) BreakerChanged(destination, from, to string) {
	t.changes.WithLabelValues(destination, to).Inc()
	t.log.Warn("circuit breaker", "destination", destination, "from", from, "to", to)
}

// Decorator watches endpoints of a kind: "message", "query".
func (t *Telemetry) Decorator(kind string) app.Decorator {
	tracer := otel.Tracer("github.com/millrace/millrace")
	return func(name string, next app.Endpoint) app.Endpoint {
		return func(ctx context.Context, request any) (any, error) {
			ctx, span := tracer.Start(ctx, kind+" "+name)
			defer span.End()
			began := time.Now()
			answer, err := next(ctx, request)
			took := time.Since(began)
			result := app.KindOf(err).String()
			if err != nil {
				span.RecordError(err)
				span.SetStatus(codes.Error, result)
			} else {
				result = "ok"
			}
			t.handled.WithLabelValues(kind, name, result).Observe(took.Seconds())
			if t.log.Enabled(ctx, slog.LevelDebug) {
				m := app.MetaOf(ctx)
				attrs := []any{"kind", kind, "name", name, "result", result, "ms", took.Milliseconds(), "message", m.ID, "type", m.Type, "correlation", m.Correlation}
				if outcome, ok := answer.(string); ok {
					attrs = append(attrs, "outcome", outcome)
				}
				if err != nil {
					attrs = append(attrs, "error", fmt.Sprint(err))
				}
				t.log.DebugContext(ctx, "handled", attrs...)
			}
			return answer, err
		}
	}
}
