// Bench measures what the service does beside its baselines, in one run, on the same PostgreSQL and the same Kafka: those of
// POSTGRES_DSN and KAFKA_BROKERS, or embedded ones. It prints a table and writes bench.json. Rates of one run can be compared with each
// other, those of two runs hardly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	kitmigrations "github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/migrations"
)

// partitions of each topic, for both.
const partitions = 12

func main() {
	o := options{}
	flag.IntVar(&o.messages, "messages", 100_000, "how many messages to relay")
	flag.IntVar(&o.keys, "keys", 5_000, "over how many keys")
	flag.IntVar(&o.probes, "probes", 40, "how many messages, and sagas, to time at low load")
	flag.IntVar(&o.sagas, "sagas", 10_000, "how many sagas to run")
	flag.IntVar(&o.requests, "requests", 20_000, "how many orders to have accepted")
	flag.IntVar(&o.backlog, "backlog", 1_000_000, "how many rows of the outbox to drain at once")
	flag.IntVar(&o.events, "events", 1_000_000, "from how many events to rebuild a projection")
	flag.BoolVar(&o.alone, "alone", false, "measure sagas without their baselines")
	flag.DurationVar(&o.rest, "rest", 20*time.Second, "how long to watch an instance at rest")
	flag.IntVar(&o.rounds, "rounds", 3, "how often to measure everything; the table shows the medians")
	flag.StringVar(&o.json, "json", "bench.json", "where to write the figures; empty: nowhere")
	flag.StringVar(&o.svg, "svg", "", "where to draw the figures beside their baselines; empty: nowhere")
	flag.StringVar(&o.only, "only", "", "measure only the cases whose names contain this")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile")
	passed := flag.Int("passed", 0, "instead, let so many messages pass through the outbox and see whether it ages, with a long transaction too")
	place := flag.String("outside", "", "instead, be the clients and the sandbox, with the directory of its data; the program starts itself so")
	draw := flag.String("draw", "", "instead, draw the figures of this file, a bench.json, by -svg")
	flag.Parse()
	runner.BoundGarbage() // as the service does
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	work := func() error { return run(ctx, os.Stdout, o, *passed) }
	switch {
	case *place != "":
		work = func() error { return beOutside(ctx, *place, os.Stdin, os.Stdout) }
	case *draw != "":
		work = func() error { return redraw(*draw, o.svg) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do
	}
}

type options struct {
	messages, keys, probes, sagas, requests, rounds, backlog, events int
	rest                                                             time.Duration
	alone                                                            bool
	json, only, profile, svg                                         string
}

// ground is what both stand on.
type environment struct {
	dsn     string
	db      *sqlx.DB
	brokers []string
	log     *slog.Logger
	dir     string
	stamp   string // makes topics and tables of this run its own
}

func run(ctx context.Context, out io.Writer, o options, passed int) (err error) {
	if passed > 0 {
		g, clean, err := newEnvironment(ctx)
		if err != nil {
			return err
		}
		return errors.Join(ages(ctx, out, g, passed, o.keys), clean())
	}
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	r := &report{}
	err = rounds(ctx, o, r)
	if len(r.figures) > 0 { // also of a run that was interrupted
		err = errors.Join(err, r.print(out))
	}
	if err != nil {
		return err
	}
	return errors.Join(r.save(o.json), plot(o.svg, r.lines()))
}

// rounds measures every case, round by round.
func rounds(ctx context.Context, o options, r *report) error {
	for round := range o.rounds {
		for _, c := range cases {
			if !strings.Contains(c.name, o.only) {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, c.name)
			g, clean, err := newEnvironment(ctx) // an empty database, and topics of its own
			if err != nil {
				return err
			}
			if err := errors.Join(c.measure(ctx, g, o, r), clean()); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// relaying measures the relay beside the stock forwarder and beside what PostgreSQL and Kafka allow.
func relaying(ctx context.Context, g *environment, o options, r *report) error {
	var results []result
	for _, c := range []contender{&stock{}, &ours{}} {
		measured, err := measure(ctx, g, c, o.messages, o.keys, o.probes)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		results = append(results, measured)
	}
	limit, err := rawLimit(ctx, g, o.messages, o.keys)
	if err != nil {
		return fmt.Errorf("raw limit: %w", err)
	}
	r.add("outbox relay", "messages/s", results[1].rate, "stock forwarder", results[0].rate)
	r.add("outbox relay, of the raw limit", "messages/s", results[1].rate, "SendMessages + DELETE", limit)
	r.add("commit to consumer, p50", "ms", ms(results[1].p50), "stock forwarder", ms(results[0].p50))
	r.add("commit to consumer, p99", "ms", ms(results[1].p99), "stock forwarder", ms(results[0].p99))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

type result struct {
	name     string
	rate     float64
	p50, p99 time.Duration
}

// contender takes messages from a table to Kafka.
type contender interface {
	name() string
	// prepare makes what is needed before anything is written.
	prepare(ctx context.Context, g *environment) error
	// write puts messages into the table, in one transaction.
	write(ctx context.Context, g *environment, topic string, messages []benchMessage) error
	// start begins to relay; what it returns ends that.
	start(ctx context.Context, g *environment) (stop func() error, err error)
}

type benchMessage struct{ key, payload string }

func measure(ctx context.Context, g *environment, c contender, messages, keys, probes int) (result, error) {
	topic := "bench." + g.stamp + "." + strings.Fields(c.name())[0]
	if _, err := kafka.EnsureTopics(ctx, kafka.Config{Brokers: g.brokers, ClientID: "bench"}, []string{topic}, partitions); err != nil {
		return result{}, err
	}
	if err := c.prepare(ctx, g); err != nil {
		return result{}, err
	}
	arrivals, stopReading, err := read(g.brokers, topic)
	if err != nil {
		return result{}, err
	}
	defer stopReading()
	for from := 0; from < messages; from += 1000 {
		var chunk []benchMessage
		for n := from; n < min(from+1000, messages); n++ {
			chunk = append(chunk, benchMessage{fmt.Sprint("key-", n%keys), strings.Repeat("x", 200)})
		}
		if err := c.write(ctx, g, topic, chunk); err != nil {
			return result{}, err
		}
	}
	stop, err := c.start(ctx, g)
	if err != nil {
		return result{}, err
	}
	var first, last time.Time
	for n := range messages {
		at, err := next(ctx, arrivals)
		if err != nil {
			return result{}, errors.Join(err, stop())
		}
		if last = at; n == 0 {
			first = at // what starting takes is not the rate's fault
		}
	}
	r := result{name: c.name(), rate: float64(messages-1) / last.Sub(first).Seconds()}
	var latencies []time.Duration
	for range probes {
		time.Sleep(50 * time.Millisecond)
		committed := time.Now()
		if err := c.write(ctx, g, topic, []benchMessage{{"probe", "probe"}}); err != nil {
			return r, errors.Join(err, stop())
		}
		arrived, err := next(ctx, arrivals)
		if err != nil {
			return r, errors.Join(err, stop())
		}
		latencies = append(latencies, arrived.Sub(committed))
	}
	slices.Sort(latencies)
	r.p50, r.p99 = latencies[len(latencies)/2], latencies[len(latencies)*99/100]
	return r, stop()
}

func next(ctx context.Context, arrivals <-chan time.Time) (time.Time, error) {
	select {
	case at := <-arrivals:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-time.After(time.Minute):
		return time.Time{}, errors.New("nothing arrived within a minute")
	}
}

func newEnvironment(ctx context.Context) (*environment, func() error, error) {
	g := &environment{
		dsn: os.Getenv("POSTGRES_DSN"), log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		stamp: fmt.Sprint(time.Now().UnixMilli()),
	}
	var cleaners []func() error
	clean := func() (err error) {
		for _, clean := range slices.Backward(cleaners) {
			err = errors.Join(err, clean())
		}
		return err
	}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return nil, nil, err
	}
	g.dir = dir
	cleaners = append(cleaners, func() error { return os.RemoveAll(dir) })
	if g.dsn == "" {
		pg, err := embedded.StartPostgres(ctx, dir, func(line string) { fmt.Fprintln(os.Stderr, line) })
		if err != nil {
			return nil, nil, errors.Join(err, clean())
		}
		g.dsn, cleaners = pg.DSN, append(cleaners, pg.Stop)
	}
	if brokers := os.Getenv("KAFKA_BROKERS"); brokers != "" {
		g.brokers = strings.Split(brokers, ",")
	} else {
		broker, err := embedded.StartKafka(dir, 0)
		if err != nil {
			return nil, nil, errors.Join(err, clean())
		}
		g.brokers, cleaners = broker.Brokers, append(cleaners, func() error { broker.Stop(); return nil })
	}
	dsn, drop, err := ownDatabase(ctx, g.dsn, "bench_"+g.stamp)
	if err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	g.dsn, cleaners = dsn, append(cleaners, drop)
	if g.db, err = postgres.Open(g.dsn, 20); err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	cleaners = append(cleaners, g.db.Close)
	if err := kitmigrations.New(migrations.Files).Up(ctx, g.db.DB); err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	return g, clean, nil
}
