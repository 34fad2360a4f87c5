package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/adapters/views"
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// passing is a relay, and how much it has sent.
type passing struct {
	g       *environment
	topic   string
	keys    []string
	shards  []int16
	relay   *outbox.Relay
	relayed atomic.Int64
	cancel  context.CancelFunc
	done    chan struct{}
}

func newPassing(ctx context.Context, g *environment, keys int) (*passing, error) {
	p := &passing{g: g, topic: "bench." + g.stamp + ".passing", done: make(chan struct{})}
	if _, err := kafka.EnsureTopics(ctx, kafka.Config{Brokers: g.brokers, ClientID: "bench"}, []string{p.topic}, partitions); err != nil {
		return nil, err
	}
	for k := range keys {
		key := fmt.Sprint("key-", k)
		p.keys, p.shards = append(p.keys, key), append(p.shards, outbox.ShardOf(p.topic, key))
	}
	p.relay = outbox.NewRelay(g.db, g.senders(), g.log, outbox.Options{DSN: g.dsn, Refused: kafka.Refused, OnRelayed: func(n int) { p.relayed.Add(int64(n)) }})
	ctx, p.cancel = context.WithCancel(ctx)
	go func() { defer close(p.done); p.relay.Run(ctx) }()
	return p, nil
}

func (p *passing) stop() {
	p.cancel()
	<-p.done
}

// pass has n messages written in one transaction, and returns how long it took from then until all were sent.
func (p *passing) pass(ctx context.Context, n int) (time.Duration, error) {
	want := p.relayed.Load() + int64(n)
	_, err := p.g.db.ExecContext(ctx, `
		INSERT INTO outbox (message_id, topic, key, shard, payload, headers)
		SELECT gen_random_uuid()::text, $1, k.key, k.shard, convert_to(repeat('x', 200), 'UTF8'), jsonb_build_object('ce_partitionkey', k.key)
		FROM generate_series(1, $4) n JOIN unnest($2::text[], $3::smallint[]) WITH ORDINALITY k(key, shard, nth) ON k.nth = n % cardinality($2) + 1
		ORDER BY n`, p.topic, p.keys, p.shards, n)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	p.relay.Wake()
	for p.relayed.Load() < want {
		if time.Since(began) > 10*time.Minute || ctx.Err() != nil {
			return 0, fmt.Errorf("%d messages fewer than %d were relayed", want-p.relayed.Load(), n)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began), nil
}

// backlog is the rate at which the relay drains many rows beside that for few, and the memory that both take.
func backlog(ctx context.Context, g *environment, o options, r *report) error {
	p, err := newPassing(ctx, g, o.keys)
	if err != nil {
		return err
	}
	defer p.stop()
	const few, times = 10_000, 9
	if _, err := p.pass(ctx, 5*few); err != nil { // to get warm
		return err
	}
	var rates []float64
	peak := peakHeap()
	for range times {
		took, err := p.pass(ctx, few)
		if err != nil {
			return err
		}
		rates = append(rates, few/took.Seconds())
	}
	little := peak()
	peak = peakHeap()
	took, err := p.pass(ctx, o.backlog)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("relay, backlog of %d", o.backlog)
	r.add(name, "messages/s", float64(o.backlog)/took.Seconds(), "backlog of 10000", median(rates))
	r.add(name+", heap", "MB", peak(), "backlog of 10000", little)
	return nil
}

// peakHeap watches what live and not yet collected objects take until the function that it returns is called, which tells the most.
func peakHeap() (most func() float64) {
	runtime.GC() // what other cases have left
	stop, result := make(chan struct{}), make(chan float64)
	go func() {
		sample, highest := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}, uint64(0)
		for {
			metrics.Read(sample)
			highest = max(highest, sample[0].Value.Uint64())
			select {
			case <-stop:
				result <- float64(highest) / 1e6
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() float64 { close(stop); return <-result }
}

// rebuilding is the rate at which a projection is built anew from many events beside that for few.
func rebuilding(ctx context.Context, g *environment, o options, r *report) error {
	rate := func(events int) (float64, float64, error) {
		_, err := g.db.ExecContext(ctx, `TRUNCATE events, order_view`)
		if err != nil {
			return 0, 0, err
		}
		_, err = g.db.ExecContext(ctx, `
			INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
			SELECT 'orders/' || n, v, nextval('events_position'), CASE v WHEN 1 THEN $2 ELSE $3 END, 1,
				CASE v WHEN 1 THEN json_build_object('order_id', n::text, 'customer_id', 'c', 'lines', json_build_array(json_build_object('sku', 'A', 'quantity', 1,
					'unit_price', 1250)), 'total', json_build_object('amount', 1250, 'currency', 'EUR'), 'payment_method', 'pm_ok')
				ELSE json_build_object('order_id', n::text) END, json_build_object('id', n || '-' || v), now()
			FROM generate_series(1, $1) n, generate_series(1, 2) v ORDER BY n, v`, events/2, nameOf(order.Placed{}), nameOf(order.Confirmed{}))
		if err != nil {
			return 0, 0, err
		}
		began, heap := time.Now(), peakHeap()
		rebuild := postgres.Rebuilding{
			DSN: g.dsn, Table: "order_view", Projection: projection.Orders(views.Orders{}), Types: order.Types,
			Progress: func(events int, position, last int64) {
				if since := time.Since(began); events%100_000 == 0 {
					fmt.Fprintf(os.Stderr, "  rebuild: %d events, %.0f/s\n", events, float64(events)/since.Seconds())
				}
			},
			Failed: func(_ context.Context, _ cqrs.Event, cause error) error { return cause },
		}
		n, err := rebuild.Run(ctx)
		took, most := time.Since(began), heap()
		if err == nil && n != events/2*2 {
			err = fmt.Errorf("%d events were read of %d", n, events)
		}
		var confirmed int
		if err == nil {
			err = g.db.GetContext(ctx, &confirmed, `SELECT count(*) FROM order_view WHERE status = 'confirmed'`)
		}
		if err == nil && confirmed != events/2 {
			err = fmt.Errorf("%d rows were built from %d orders", confirmed, events/2)
		}
		return float64(n) / took.Seconds(), most, err
	}
	few, little, err := rate(20_000)
	if err != nil {
		return err
	}
	many, much, err := rate(o.events)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("rebuild of the list of orders, %d events", o.events)
	r.add(name, "events/s", many, "20000 events", few)
	r.add(name+", heap", "MB", much, "20000 events", little)
	return nil
}

func nameOf(event order.Event) string {
	t, _ := order.Types.Of(event)
	return t.Name
}

type silent struct{}

func (silent) Publish(context.Context, any) error { return nil }

// loading times how long an aggregate of 10,000 events takes to load into an instance that does not know it, beside one of 100, and
// beside folding all of its events.
func loading(ctx context.Context, g *environment, o options, r *report) error {
	store := eventstore.New(g.db, inventory.Types)
	repository := func(s *eventstore.Store, every int) *eventstore.Repository[*inventory.Stock, inventory.Event] {
		return eventstore.NewRepository(s, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: every})
	}
	uow := postgres.NewUnitOfWork(g.db, store, silent{}, time.Now)
	for sku, events := range map[string]int{"few": 100, "many": 10_000} {
		for range events / 50 {
			err := uow.Within(ctx, func(ctx context.Context) error {
				return repository(store, 100).Update(ctx, sku, func(s *inventory.Stock) error {
					for range 50 {
						if err := s.Receive(sku, 1); err != nil {
							return err
						}
					}
					return nil
				})
			})
			if err != nil {
				return err
			}
		}
	}
	timed := func(sku string, want int64) (float64, error) {
		var took []float64
		for range max(o.probes*5, 20) {
			fresh := repository(eventstore.New(g.db, inventory.Types), 100)
			began := time.Now()
			s, err := fresh.Load(ctx, sku)
			took = append(took, ms(time.Since(began)))
			if err != nil || s.OnHand() != want {
				return 0, errors.Join(err, fmt.Errorf("%s: %d on hand", sku, s.OnHand()))
			}
		}
		return median(took), nil
	}
	few, err := timed("few", 100)
	if err != nil {
		return err
	}
	many, err := timed("many", 10_000)
	if err != nil {
		return err
	}
	if _, err := g.db.ExecContext(ctx, `DELETE FROM snapshots`); err != nil {
		return err
	}
	all, err := timed("many", 10_000)
	if err != nil {
		return err
	}
	r.add("load an aggregate of 10,000 events (100)", "ms", many, "one of 100 events", few)
	r.add("load an aggregate of 10,000 events (no snapshot)", "ms", many, "without its snapshot", all)
	return nil
}

// resting measures what an instance with all roles takes while nothing happens.
func resting(ctx context.Context, g *environment, o options, r *report) (err error) {
	f, stop, err := startFleet(ctx, g, []string{"api,worker,relay"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := f.stock(ctx, 10); err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // the consumer groups settle
	transactions := func() (n int64) {
		err = errors.Join(err, g.db.GetContext(ctx, &n, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`))
		return n
	}
	before, cpu, began := transactions(), cpuTime(), time.Now()
	time.Sleep(o.rest)
	used, passed, after := cpuTime()-cpu, time.Since(began), transactions()
	if err != nil {
		return err
	}
	r.add("at rest, CPU", "% of a core", 100*used.Seconds()/passed.Seconds(), "", 0)
	r.add("at rest, PostgreSQL", "transactions/s", float64(after-before)/passed.Seconds(), "", 0)
	return nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
