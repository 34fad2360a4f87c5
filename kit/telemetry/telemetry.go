// Package telemetry has the metrics of a service, and writes a log line (at debug level), a metric and a trace span for each processed message and
// query.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/kit/cqrs"
)

// Telemetry is the registry of a service's metrics, with the metrics of this library. It is safe for concurrent use.
type Telemetry struct {
	Registry *prometheus.Registry
	relayed  prometheus.Counter
	log      *slog.Logger
	handled  *prometheus.HistogramVec
	http     *prometheus.HistogramVec
	panics   prometheus.Counter
	failures *prometheus.CounterVec
	changes  *prometheus.CounterVec
	sagas    *prometheus.HistogramVec
	inFlight *inFlight

	counts struct{ handled, relayed, sagas, failed atomic.Int64 }
}

// Totals are counts since the start: attempts to process a message, messages acknowledged by the broker, sagas that ended, and failed attempts.
type Totals struct{ Handled, Relayed, Sagas, Failed float64 }

// Totals returns the current counts.
func (t *Telemetry) Totals() Totals {
	c := &t.counts
	return Totals{float64(c.handled.Load()), float64(c.relayed.Load()), float64(c.sagas.Load()), float64(c.failed.Load())}
}

// Relayed counts messages that the broker has acknowledged.
func (t *Telemetry) Relayed(messages int) {
	t.counts.relayed.Add(int64(messages))
	t.relayed.Add(float64(messages))
}

// New makes and registers the metrics, whose names begin with millrace_, and the collectors of the Go runtime and the process.
func New(log *slog.Logger) *Telemetry {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	quick := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	t := &Telemetry{
		Registry: prometheus.NewRegistry(), log: log,
		relayed: prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_outbox_relayed_total", Help: "Messages that the broker has acknowledged."}),
		handled: histogram("millrace_handled_seconds", "Time of one attempt to process a command, event or query, by kind, name and result.", quick, "kind", "name", "result"),
		http:    histogram("millrace_http_seconds", "Time of requests, by route and status.", quick, "method", "route", "status"),
		panics:  prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_http_panics_total", Help: "Requests whose handler panicked; the log has the stack."}),
		failures: counter("millrace_messages_failed_total",
			"Failed attempts, by consumer and what happened then to the message: retried, delayed, dead; waiting: a message of a blocked key.", "consumer", "then"),
		changes: counter("millrace_breaker_changes_total", "Transitions of circuit breakers, by destination and new state.", "destination", "to"),
		sagas: histogram("millrace_saga_seconds", "Time from the start of a saga to its end, by definition and final status.",
			[]float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200}, "definition", "status"),
		inFlight: &inFlight{since: map[string]map[time.Time]int{}},
	}
	t.Registry.MustRegister(t.relayed, t.handled, t.http, t.panics, t.failures, t.changes, t.sagas, t.inFlight, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return t
}

// Gauge describes a metric whose value is read at each scrape.
type Gauge struct {
	Name, Help string
	Labels     []string
}

// Sample is one value of a Gauge.
type Sample struct {
	Name   string
	Labels []string // values of the gauge's labels, in their order
	Value  float64
}

// Gauges registers metrics that one call of read returns at each scrape. If read fails, all of them are absent from the scrape, and a warning is
// logged.
func (t *Telemetry) Gauges(gauges []Gauge, read func() ([]Sample, error)) {
	r := &reader{descs: map[string]*prometheus.Desc{}, read: read, log: t.log}
	for _, g := range gauges {
		r.descs[g.Name] = prometheus.NewDesc(g.Name, g.Help, g.Labels, nil)
	}
	t.Registry.MustRegister(r)
}

type reader struct {
	descs map[string]*prometheus.Desc
	read  func() ([]Sample, error)
	log   *slog.Logger
}

// Describe implements prometheus.Collector.
func (r *reader) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range r.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *reader) Collect(ch chan<- prometheus.Metric) {
	samples, err := r.read()
	if err != nil {
		r.log.Warn("metrics: some cannot be read", "error", err)
		return
	}
	for _, s := range samples {
		ch <- prometheus.MustNewConstMetric(r.descs[s.Name], prometheus.GaugeValue, s.Value, s.Labels...)
	}
}

// inFlight collects the age of the messages that handlers are processing.
type inFlight struct {
	mu    sync.Mutex
	since map[string]map[time.Time]int // number of messages, by consumer and the message's time
}

var oldestUnprocessed = prometheus.NewDesc("millrace_oldest_unprocessed_seconds",
	"Age of the oldest message that a consumer of this instance is processing; later messages are younger. 0 if none is in flight.", []string{"consumer"}, nil)

// Describe implements prometheus.Collector.
func (h *inFlight) Describe(ch chan<- *prometheus.Desc) { ch <- oldestUnprocessed }

// Collect implements prometheus.Collector.
func (h *inFlight) Collect(ch chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for consumer, times := range h.since {
		oldest := 0.0
		for at := range times {
			oldest = max(oldest, time.Since(at).Seconds())
		}
		ch <- prometheus.MustNewConstMetric(oldestUnprocessed, prometheus.GaugeValue, oldest, consumer)
	}
}

// InFlight records that a consumer processes a message with the time at, until done is called.
func (t *Telemetry) InFlight(consumer string, at time.Time) (done func()) {
	h := t.inFlight
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since[consumer] == nil {
		h.since[consumer] = map[time.Time]int{}
	}
	h.since[consumer][at]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.since[consumer][at]--; h.since[consumer][at] == 0 {
			delete(h.since[consumer], at)
		}
	}
}

// SagaEnded records the end of a saga with its final status and its duration.
func (t *Telemetry) SagaEnded(definition, status string, took time.Duration) {
	t.counts.sagas.Add(1)
	t.sagas.WithLabelValues(definition, status).Observe(took.Seconds())
}

// Request records the duration of an HTTP request.
func (t *Telemetry) Request(method, route string, status int, took time.Duration) {
	t.http.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}

// Panicked counts a request whose handler panicked.
func (t *Telemetry) Panicked() { t.panics.Inc() }

// Failed counts a failed attempt. Then is the result: "retried", "delayed", "dead", "waiting" or "tombstone".
func (t *Telemetry) Failed(consumer, then string) {
	t.counts.failed.Add(1)
	t.failures.WithLabelValues(consumer, then).Inc()
}

// BreakerChanged counts and logs a state change of a circuit breaker.
func (t *Telemetry) BreakerChanged(destination, from, to string) {
	t.changes.WithLabelValues(destination, to).Inc()
	t.log.Warn("circuit breaker", "destination", destination, "from", from, "to", to)
}

// Decorator returns a decorator that logs, measures and traces endpoints. Kind is "message" or "query"; the totals count only messages.
func (t *Telemetry) Decorator(kind string) cqrs.Decorator {
	spanKind := trace.SpanKindInternal
	if kind == "message" {
		spanKind = trace.SpanKindConsumer
	}
	tracer := otel.Tracer("millrace")
	return func(name string, next cqrs.Endpoint) cqrs.Endpoint {
		title, well := kind+" "+name, t.handled.WithLabelValues(kind, name, "ok")
		return func(ctx context.Context, request any) (any, error) {
			at := cqrs.MetaFromContext(ctx)
			ctx, span := tracer.Start(ctx, title, trace.WithSpanKind(spanKind))
			defer span.End()
			if span.IsRecording() && kind == "message" {
				span.SetAttributes(attribute.String("messaging.system", "kafka"), attribute.String("messaging.message.id", at.ID),
					attribute.String("millrace.type", at.Type), attribute.String("millrace.saga_id", at.SagaID), attribute.String("millrace.saga_step", at.SagaStep))
			}
			began := time.Now()
			answer, err := next(ctx, request)
			took := time.Since(began)
			result := "ok"
			if err == nil {
				well.Observe(took.Seconds())
			} else {
				result = cqrs.KindOf(err).String()
				span.RecordError(err)
				span.SetStatus(codes.Error, result)
				t.handled.WithLabelValues(kind, name, result).Observe(took.Seconds())
			}
			if kind == "message" {
				t.counts.handled.Add(1)
			}
			if t.log.Enabled(ctx, slog.LevelDebug) {
				m := cqrs.MetaFromContext(ctx)
				attrs := []any{"kind", kind, "name", name, "result", result, "ms", took.Milliseconds(), "message", m.ID, "type", m.Type, "correlation", m.Correlation}
				if outcome, ok := answer.(cqrs.Outcome); ok {
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
