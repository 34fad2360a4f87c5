package postgres_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/audit"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// minOperations is how many operations TestInstancesAgree runs at least, over all of its checks.
const minOperations = 10_000

// operation is a unit of work of one instance on one stock. Those that look at a reservation succeed if the order has one at that moment.
type operation struct {
	kind     string
	instance int
	sku      string
	other    string // another SKU
	order    string
	inbox    bool // by a message, or else outside the inbox like a request
	id       string
	delay    time.Duration // after which its context ends

	result result
}

// The kinds of operations, and how many events each records if it commits.
var operations = map[string]int{
	"receive": 1, "receive two": 2, "own transaction": 1, "repeated message": 1, "cancelled": 1, "timeout": 1,
	"reserve": 1, "reserve, timeout": 1, "commit": 1, "release": 1,
	"panic unless reserved": 0, "fail unless reserved": 0, "history": 0, "load": 0,
	"refused": 0, "failed": 0, "panicked": 0,
}

type result string

const (
	committed   result = "committed"
	notReserved result = "not reserved"
	nothing     result = "nothing" // an error, a refusal or a panic that was asked for, or conflicts without end
	unknown     result = "unknown" // the context ended first
)

var errMissing = errors.New("the order has no reservation")

// work is what the unit does.
func (o *operation) work(w *environment) func(ctx context.Context) error {
	update := func(decide func(s *inventory.Stock) error) func(ctx context.Context) error {
		return func(ctx context.Context) error { return w.stock.Update(ctx, o.sku, decide) }
	}
	receive := update(func(s *inventory.Stock) error { return s.Receive(o.sku, 1) })
	reserved := func(s *inventory.Stock) bool { return s.Reservations()[o.order] > 0 }
	switch o.kind {
	case "receive two":
		return func(ctx context.Context) error {
			return w.stock.UpdateAll(ctx, []string{o.other, o.sku}, func(all []*inventory.Stock) error {
				return errors.Join(all[0].Receive(o.other, 1), all[1].Receive(o.sku, 1))
			})
		}
	case "own transaction":
		return func(ctx context.Context) error {
			_, err := txn.FromContext(ctx)
			return errors.Join(err, receive(ctx))
		}
	case "reserve", "reserve, timeout":
		return update(func(s *inventory.Stock) error { return s.Reserve(o.sku, o.order, 1) })
	case "commit":
		return update(func(s *inventory.Stock) error { return s.Commit(o.sku, o.order) })
	case "release":
		return update(func(s *inventory.Stock) error {
			if !reserved(s) {
				return inventory.ErrNotReserved
			}
			return s.Release(o.sku, o.order)
		})
	case "panic unless reserved":
		return update(func(s *inventory.Stock) error {
			if !reserved(s) {
				panic(errMissing)
			}
			return nil
		})
	case "fail unless reserved":
		return update(func(s *inventory.Stock) error {
			if !reserved(s) {
				return errMissing
			}
			return nil
		})
	case "history":
		return func(ctx context.Context) error {
			history, err := w.store.History(ctx, inventory.Category, o.sku)
			if err == nil && !reserved(inventory.Rebuild(eventsOf(history))) {
				err = errMissing
			}
			return err
		}
	case "load":
		return func(ctx context.Context) error {
			s, err := w.stock.Load(ctx, o.sku)
			if err == nil && !reserved(s) {
				err = errMissing
			}
			return err
		}
	case "refused":
		return func(ctx context.Context) error { return errors.Join(receive(ctx), inventory.ErrSKU) }
	case "failed":
		return func(ctx context.Context) error { return errors.Join(receive(ctx), errAsked) }
	case "panicked":
		return func(ctx context.Context) error {
			_ = receive(ctx)
			panic(errAsked)
		}
	default:
		return receive
	}
}

var errAsked = errors.New("asked for")

func eventsOf(history []cqrs.Event) []inventory.Event {
	events := make([]inventory.Event, len(history))
	for i, e := range history {
		events[i] = e.Body.(inventory.Event)
	}
	return events
}

// late tells whether a context's time is over.
func late(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Now().After(deadline)
}

// run runs the operation and notes its result; what must not happen is returned.
func (o *operation) run(instances []*environment) (wrong error) {
	ctx, cancel := context.WithCancel(context.Background())
	switch o.kind {
	case "cancelled":
		time.AfterFunc(o.delay, cancel)
	case "timeout", "reserve, timeout":
		ctx, cancel = context.WithTimeout(ctx, o.delay)
	case "repeated message":
		var twice sync.WaitGroup
		for n := range 2 {
			twice.Go(func() { _, _ = o.handle(ctx, instances[(o.instance+n+1)%len(instances)]) })
		}
		defer twice.Wait()
	}
	defer cancel()
	outcome, err := o.handle(ctx, instances[o.instance])
	switch {
	case errors.Is(err, errMissing), errors.Is(err, inventory.ErrNotReserved):
		o.result = notReserved
	case outcome == cqrs.Refused && operations[o.kind] > 0:
		o.result = notReserved
	case err == nil && outcome != cqrs.Refused:
		o.result = committed
	case errors.Is(err, errAsked), errors.Is(err, inventory.ErrSKU), outcome == cqrs.Refused, errors.Is(err, cqrs.ErrConflict):
		o.result = nothing
	case ctx.Err() != nil, late(ctx): // the network may come to the end of the time before the context does
		o.result = unknown
	default:
		return fmt.Errorf("%+v: %w", *o, err)
	}
	return nil
}

func (o *operation) handle(ctx context.Context, w *environment) (outcome cqrs.Outcome, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = value.(error)
		}
	}()
	d := command(o.id, "", "")
	if o.inbox || o.kind == "repeated message" {
		return w.uow.Handle(ctx, d, o.work(w))
	}
	return cqrs.Processed, w.uow.Within(cqrs.WithMeta(ctx, d.Meta), o.work(w))
}

// looks tells whether the operation's result depends on the order's reservation.
func (o *operation) looks() bool {
	switch o.kind {
	case "commit", "release", "panic unless reserved", "fail unless reserved", "history", "load":
		return o.result == committed || o.result == notReserved
	}
	return false
}

// changes tells whether the operation may change whether the order has a reservation.
func (o *operation) changes() bool {
	return o.kind == "reserve" || o.kind == "reserve, timeout" || o.kind == "commit" || o.kind == "release"
}

// Three instances on one database run random operations on a few stocks, one at a time or several at once. Each instance runs a relay, and
// the relays lose leases at random. Afterwards each stream is 1, 2, …, n; each operation that committed is stored once, each other one not at
// all; no operation was decided by what was not stored; each snapshot is the fold of its events; and the relays have sent each stored event,
// those of a stream in order.
func TestInstancesAgree(t *testing.T) {
	_, dsn := kittest.Database(t)
	var instances []*environment
	for range 3 {
		db, err := postgres.Open(dsn+"&synchronous_commit=off", 20)
		require.NoError(t, err)
		defer db.Close() // at the end of the test
		w := (&environment{db: db}).another()
		w.stock = eventstore.NewRepository(w.store, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: snapshotEvery, Contended: len(instances) > 0})
		instances = append(instances, w)
	}
	sent := &sentLog{versions: map[string][]string{}}
	stopLoss := startRelays(t, dsn, sent, instances)
	kinds := append(slices.Sorted(maps.Keys(operations)), "reserve", "reserve", "reserve") // else few orders have a reservation
	var checks, total int
	results := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		checks++
		name := func(kind string, n int) string { return fmt.Sprint(kind, checks, "-", n) }
		var done []*operation
		for _, n := range []int{0, 1} {
			first := &operation{kind: "receive", sku: name("SKU-", n), id: name("first-", n)}
			if err := first.run(instances); err != nil || first.result != committed {
				rt.Fatal(err, first.result)
			}
			done = append(done, first)
			if err := instances[0].uow.Within(t.Context(), instances[0].receiveOf(first.sku, 1000)); err != nil {
				rt.Fatal(err)
			}
		}
		reserved, unverified := map[string]bool{}, map[string]bool{}
		for len(done) < minOperations/100+5 {
			var round []*operation
			for range rapid.SampledFrom([]int{1, 1, 1, 2, 3, 6}).Draw(rt, "at once") {
				n := rapid.IntRange(0, 1).Draw(rt, "SKU")
				o := &operation{
					kind: rapid.SampledFrom(kinds).Draw(rt, "kind"), instance: rapid.IntRange(0, 2).Draw(rt, "instance"),
					sku: name("SKU-", n), other: name("SKU-", 1-n), order: fmt.Sprint("order-", n, "-", rapid.IntRange(1, 3).Draw(rt, "order")),
					inbox: rapid.Bool().Draw(rt, "inbox"), id: name("m-", len(done)),
				}
				if o.delay = time.Duration(rapid.IntRange(0, 3000).Draw(rt, "µs")) * time.Microsecond; o.kind == "reserve, timeout" {
					o.order += "t" // so that there remain orders of which all is known
				}
				round, done = append(round, o), append(done, o)
			}
			wrong := make(chan error, len(round))
			for _, o := range round {
				go func() { wrong <- o.run(instances) }()
			}
			for range round {
				if err := <-wrong; err != nil {
					rt.Fatal(err)
				}
			}
			for _, o := range round {
				results[o.kind+": "+string(o.result)]++
				concurrent := false
				for _, other := range round {
					concurrent = concurrent || other != o && other.changes() && other.order == o.order
				}
				if o.looks() && !concurrent && !unverified[o.order] && (o.result == committed) != reserved[o.order] {
					rt.Fatalf("%+v, but that the order has a reservation was %v; all: %s", *o, reserved[o.order], list(done))
				}
			}
			for _, o := range round {
				switch {
				case !o.changes() || o.result == notReserved || o.result == nothing:
				case len(round) > 1 || o.result == unknown:
					unverified[o.order] = true
				default:
					reserved[o.order] = o.kind == "reserve"
				}
			}
			// Of what ran at once, the table says what has come of it.
			if len(round) > 1 {
				for n := range 2 {
					history, err := instances[0].store.History(t.Context(), inventory.Category, name("SKU-", n))
					if err != nil {
						rt.Fatal(err)
					}
					s := inventory.Rebuild(eventsOf(history))
					for order := range unverified {
						if order[len(order)-1] != 't' && order[6] == fmt.Sprint(n)[0] {
							reserved[order] = s.Reservations()[order] > 0
							delete(unverified, order)
						}
					}
				}
			}
		}
		total += len(done)
		for n := range 2 {
			auditStream(rt, instances[0], name("SKU-", n))
		}
		stored := map[string]int{}
		rows, err := instances[0].db.Query(`SELECT meta->>'causation', count(*) FROM events WHERE stream = ANY($1) AND meta->>'causation' IS NOT NULL GROUP BY 1`,
			[]string{"inventory/" + name("SKU-", 0), "inventory/" + name("SKU-", 1)})
		if err != nil {
			rt.Fatal(err)
		}
		defer rows.Close() // read to the end
		for rows.Next() {
			var id string
			var n int
			if err := rows.Scan(&id, &n); err != nil {
				rt.Fatal(err)
			}
			stored[id] = n
		}
		if err := rows.Err(); err != nil {
			rt.Fatal(err)
		}
		for _, o := range done {
			n, want := stored[o.id], operations[o.kind]
			switch {
			case o.result == unknown && (n == 0 || n == want):
			case o.result == committed && n == want:
			case o.result == committed && n == 0 && (o.kind == "reserve" || o.kind == "reserve, timeout"): // was reserved before
			case o.kind == "repeated message" && n == 1: // by another instance
			case (o.result == notReserved || o.result == nothing) && n == 0:
			default:
				rt.Fatalf("%+v has stored %d events", *o, n)
			}
		}
	})
	t.Logf("%d operations in %d checks: %v", total, checks, results)
	lost := stopLoss()
	t.Logf("%d leases lost, %d messages relayed again", lost, sent.requireAll(t, instances[0]))
	require.Positive(t, lost)
	snapshots := audit.SnapshotOf(eventstore.FoldSnapshot(inventory.Rebuild, eventstore.Options{}))
	report, err := audit.Run(t.Context(), instances[0].db, instances[0].store, []audit.Derived{audit.Snapshots(map[string]audit.Snapshot{inventory.Category: snapshots})})
	require.NoError(t, err)
	require.True(t, report.Consistent, "%+v", report)
	require.GreaterOrEqual(t, total, minOperations)
}

// snapshotEvery is small, so that nearly all streams have a snapshot.
const snapshotEvery = 7

// auditStream checks a stream: its versions, and that its snapshot and what instances load are the fold of its events. A unit whose context
// ended may still commit meanwhile, so the stream may grow while it is checked.
func auditStream(rt *rapid.T, w *environment, sku string) {
	load := func() []cqrs.Event {
		history, err := w.store.History(context.Background(), inventory.Category, sku)
		if err != nil {
			rt.Fatal(err)
		}
		return history
	}
	before := len(load())
	loaded, err := w.stock.Load(context.Background(), sku)
	if err != nil {
		rt.Fatal(err)
	}
	var snapshot struct {
		Version int
		State   []byte
	}
	err = w.db.Get(&snapshot, `SELECT version, state FROM snapshots WHERE stream = 'inventory/' || $1`, sku)
	short := errors.Is(err, sql.ErrNoRows) && before < snapshotEvery
	if err != nil && !short {
		rt.Fatal(err)
	}
	history := load()
	for i, e := range history {
		if e.Meta.Version != i+1 {
			rt.Fatalf("event %d of %s is of version %d", i+1, sku, e.Meta.Version)
		}
	}
	if v := loaded.Version(); v < before || v > len(history) {
		rt.Fatalf("version %d of %s was loaded, which had %d events before and %d afterwards", v, sku, before, len(history))
	}
	same := func(what string, version int, state []byte) {
		want := fold(rt, eventsOf(history)[:version])
		var a, b any
		if err := errors.Join(json.Unmarshal(want, &a), json.Unmarshal(state, &b)); err != nil {
			rt.Fatal(err)
		}
		if fmt.Sprint(a) != fmt.Sprint(b) {
			rt.Fatalf("%s of %s at version %d is %s, its events make %s", what, sku, version, state, want)
		}
	}
	state, err := json.Marshal(loaded.State())
	if err != nil {
		rt.Fatal(err)
	}
	same("what is loaded", loaded.Version(), state)
	if !short {
		same("the snapshot", snapshot.Version, snapshot.State)
	}
}

func fold(rt *rapid.T, events []inventory.Event) []byte {
	state, err := json.Marshal(inventory.Rebuild(events).State())
	if err != nil {
		rt.Fatal(err)
	}
	return state
}

// list is a line for each operation that is not the first ones'.
func list(all []*operation) string {
	var b strings.Builder
	for _, o := range all {
		fmt.Fprintf(&b, "\n%s instance %d %s %s %s inbox %v: %s", o.id, o.instance, o.kind, o.sku, o.order, o.inbox, o.result)
	}
	return b.String()
}
