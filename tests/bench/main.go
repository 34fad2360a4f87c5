// Bench measures our outbox relay beside Watermill's stock forwarder, in one run, on the same PostgreSQL and the same Kafka:
// those of POSTGRES_DSN and KAFKA_BROKERS, or embedded ones. It prints a table. Rates of one run can be compared with each
// other, those of two runs hardly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/embedded"
	"github.com/millrace/millrace/adapters/kafka"
	"github.com/millrace/millrace/adapters/postgres"
	"github.com/millrace/millrace/migrations"
)

// partitions of each topic, for both.
const partitions = 12

func main() {
	messages := flag.Int("messages", 20_000, "how many messages to relay")
	keys := flag.Int("keys", 5_000, "over how many keys")
	probes := flag.Int("probes", 40, "how many messages to time at low load")
	sagas := flag.Int("sagas", 0, "instead, run so many sagas")
	skus := flag.Int("skus", 1000, "over how many SKUs")
	instances := flag.Int("instances", 1, "on how many instances")
	profile := flag.String("profile", "", "write a CPU profile of it")
	passed := flag.Int("passed", 0, "instead, let so many messages pass through the outbox and see whether it ages, with a long transaction too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *sagas > 0 {
		if err := quick(ctx, *sagas, *skus, *instances, *profile); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, os.Stdout, *messages, *keys, *probes, *passed); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do
	}
}

// ground is what both stand on.
type ground struct {
	dsn     string
	db      *sqlx.DB
	brokers []string
	log     *slog.Logger
	dir     string
	stamp   string // makes topics and tables of this run its own
}

func run(ctx context.Context, out io.Writer, messages, keys, probes, passed int) (err error) {
	g, clean, err := newGround(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	if passed > 0 {
		return ages(ctx, out, g, passed, keys)
	}
	fmt.Fprintf(out, "relaying %d messages of %d keys, then %d messages one at a time\n\n", messages, keys, probes)
	var results []result
	for _, contender := range []contender{&stock{}, &ours{}} {
		r, err := measure(ctx, g, contender, messages, keys, probes)
		if err != nil {
			return fmt.Errorf("%s: %w", contender.name(), err)
		}
		results = append(results, r)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tmessages/s\tcommit to consumer p50\tp99\t")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%.0f\t%.1f ms\t%.1f ms\t\n", r.name, r.rate, ms(r.p50), ms(r.p99))
	}
	fmt.Fprintf(table, "ratio\t%.1f x the rate\t1/%.0f\t1/%.0f\t\n", results[1].rate/results[0].rate,
		float64(results[0].p50)/float64(results[1].p50), float64(results[0].p99)/float64(results[1].p99))
	return table.Flush()
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
	prepare(ctx context.Context, g *ground) error
	// write puts messages into the table, in one transaction.
	write(ctx context.Context, g *ground, topic string, messages []benchMessage) error
	// start begins to relay; what it returns ends that.
	start(ctx context.Context, g *ground) (stop func() error, err error)
}

type benchMessage struct{ key, payload string }

func measure(ctx context.Context, g *ground, c contender, messages, keys, probes int) (result, error) {
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
	began := time.Now()
	stop, err := c.start(ctx, g)
	if err != nil {
		return result{}, err
	}
	for range messages {
		if _, err := next(ctx, arrivals); err != nil {
			return result{}, errors.Join(err, stop())
		}
	}
	r := result{name: c.name(), rate: float64(messages) / time.Since(began).Seconds()}
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

func newGround(ctx context.Context) (*ground, func() error, error) {
	g := &ground{
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
	if err := migrations.Up(ctx, g.db.DB); err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	return g, clean, nil
}

func quick(ctx context.Context, orders, skus, instances int, profile string) (err error) {
	g, clean, err := newGround(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	var roles []string
	for range instances {
		roles = append(roles, "api,worker,relay")
	}
	f, stop, err := startFleet(ctx, g, roles...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := f.stock(ctx, skus); err != nil {
		return err
	}
	say := func(placed, ended int) {}
	if _, err := f.run(ctx, orders/10, skus, 32, say); err != nil {
		return err
	}
	if profile != "" {
		file, err := os.Create(profile)
		if err != nil {
			return err
		}
		_ = pprof.StartCPUProfile(file)
		defer pprof.StopCPUProfile()
	}
	cpu := usage()
	took, err := f.run(ctx, orders, skus, 32, say)
	if err != nil {
		return err
	}
	used := usage() - cpu
	if profile != "" {
		pprof.StopCPUProfile()
	}
	began := time.Now()
	if err := f.balanced(ctx, orders+orders/10); err != nil {
		return err
	}
	fmt.Printf("\n%d sagas in %.1f s: %.0f/s; our CPU %.2f ms a saga; books after %.1f s\n", orders, took.Seconds(), float64(orders)/took.Seconds(), used.Seconds()*1000/float64(orders), time.Since(began).Seconds())
	for range 20 {
		time.Sleep(50 * time.Millisecond)
		_ = f
	}
	var lat []time.Duration
	for range 30 {
		time.Sleep(20 * time.Millisecond)
		began := time.Now()
		if err := f.waited(ctx, sku(1)); err != nil {
			return err
		}
		lat = append(lat, time.Since(began))
	}
	slices.Sort(lat)
	fmt.Printf("one at a time: p50 %.1f ms, max %.1f ms\n", ms(lat[len(lat)/2]), ms(lat[len(lat)-1]))
	return nil
}

func usage() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (f *fleet) waited(ctx context.Context, sku string) error {
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.instances[0].URL+"/v1/orders", strings.NewReader(`{"lines":[{"sku":"`+sku+`","quantity":1,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}`))
	request.Header.Set("Prefer", "wait=20")
	request.Header.Set("Content-Type", "application/json")
	response, err := f.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}
