package postgres_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// counter is the stock that countInline changes.
const counter = "COUNTER"

// countInline adds an inline consumer that adds 1 to a counter for each event of other stock. Handle, if it is given, is called after that.
func (w *environment) countInline(handle func(ctx context.Context) error) *environment {
	w.uow.Inline = []cqrs.InlineConsumer{{
		Name: "count", Consumer: "counts", Category: inventory.Category,
		Takes: func(e cqrs.Event) (concerns, inline bool) {
			received, ok := e.Body.(inventory.Received)
			return ok && e.Key != counter, received.Quantity != 13
		},
		Handle: func(ctx context.Context, _ cqrs.Event) error {
			if err := w.receiveOf(counter, 1)(ctx); err != nil || handle == nil {
				return err
			}
			return handle(ctx)
		},
	}}
	return w
}

// deliver has the consumer receive an event as the broker delivers it.
func (w *environment) deliver(t *testing.T, e cqrs.Event) cqrs.Outcome {
	t.Helper()
	outcome, err := w.uow.Handle(t.Context(), cqrs.Delivery{Consumer: "counts", Meta: e.Meta}, w.receiveOf(counter, 1))
	require.NoError(t, err)
	return outcome
}

func (w *environment) counted(t *testing.T) int64 {
	t.Helper()
	s, err := w.stock.Load(t.Context(), counter)
	if errors.Is(err, cqrs.ErrNotFound) {
		return 0
	}
	require.NoError(t, err)
	return s.OnHand()
}

// history is the stored events of a stock.
func (w *environment) history(t *testing.T, sku string) []cqrs.Event {
	t.Helper()
	events, err := w.store.History(t.Context(), inventory.Category, sku)
	require.NoError(t, err)
	return events
}

// published is the last event of a stock that was published.
func (w *environment) published(sku string) (last cqrs.Event) {
	for _, e := range w.bus.published {
		if e.Key == sku {
			last = e
		}
	}
	return last
}

// What an inline consumer does is committed with the event. The event's message says so, and if it is delivered all the same it is a duplicate.
func TestInlineConsumer(t *testing.T) {
	w := newEnvironment(t).countInline(func(ctx context.Context) error {
		at := cqrs.MetaFromContext(ctx)
		assert.Equal(t, "inventory.received", at.Type)
		assert.Equal(t, cqrs.Principal{}, cqrs.PrincipalFromContext(ctx))
		return nil
	})
	outcome, err := w.uow.Handle(t.Context(), command("run-1", "", ""), w.receive)
	require.NoError(t, err)
	require.Equal(t, cqrs.Processed, outcome)
	require.Equal(t, int64(1), w.onHand(t))
	require.Equal(t, int64(1), w.counted(t))
	require.Equal(t, 1, w.count(t, `SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM events UNION ALL SELECT xmin FROM inbox UNION ALL SELECT xmin FROM outbox) r`))
	e := w.history(t, "A")[0]
	require.Equal(t, []string{"count"}, w.published("A").Meta.HandledBy)
	require.Empty(t, w.published(counter).Meta.HandledBy, "an inline consumer does not handle what inline consumers record")
	require.Equal(t, e.Meta.ID, w.history(t, counter)[0].Meta.Causation)
	require.Equal(t, cqrs.Duplicate, w.deliver(t, e))
	require.Equal(t, int64(1), w.counted(t))
}

// Events of a message that concern a consumer are handled all inline, or none. Those that do not concern it are not marked: they may concern the consumer of a later version.
func TestInlineConsumerHandlesAllEventsOfAMessageOrNone(t *testing.T) {
	w := newEnvironment(t).countInline(nil)
	both := func(quantities ...int64) {
		t.Helper()
		require.NoError(t, w.uow.Within(t.Context(), func(ctx context.Context) error {
			for _, q := range quantities {
				if err := w.receiveOf("A", q)(ctx); err != nil {
					return err
				}
			}
			return w.stock.Update(ctx, "A", func(s *inventory.Stock) error { return s.Reserve("A", "order-1", 1) })
		}))
	}
	both(1, 2)
	require.Equal(t, int64(2), w.counted(t))
	var marked []string
	for _, e := range w.bus.published {
		marked = append(marked, fmt.Sprint(e.Meta.Type, e.Meta.HandledBy))
	}
	require.Equal(t, []string{"inventory.received[count]", "inventory.received[count]", "inventory.reserved[]", "inventory.received[]", "inventory.received[]"}, marked)
	w.bus.published = nil
	both(1, 13)
	require.Equal(t, int64(2), w.counted(t))
	for _, e := range w.bus.published {
		require.Empty(t, e.Meta.HandledBy)
	}
}

// Whatever goes wrong in an inline consumer, the message whose event it handles commits, and the consumer gets the event from the broker.
func TestInlineConsumerCannotFailAMessage(t *testing.T) {
	failures := map[string]func(w *environment) func(ctx context.Context) error{
		"error": func(*environment) func(context.Context) error {
			return func(context.Context) error { return errors.New("a bug") }
		},
		"refusal": func(*environment) func(context.Context) error {
			return func(context.Context) error { return aggregate.Refuse("no") }
		},
		"unavailable": func(*environment) func(context.Context) error {
			return func(context.Context) error { return cqrs.ErrUnavailable }
		},
		"panic": func(*environment) func(context.Context) error {
			return func(context.Context) error { panic("a bug") }
		},
		"needs a transaction": func(*environment) func(context.Context) error {
			return func(ctx context.Context) error {
				tx, err := txn.FromContext(ctx)
				if err == nil {
					_, err = tx.ExecContext(ctx, `INSERT INTO items VALUES ('inline', 1)`)
				}
				return err
			}
		},
		"row that the table refuses": func(*environment) func(context.Context) error {
			return func(ctx context.Context) error { return items.Write(ctx, item{key: "inline", n: 5000}) }
		},
		"statement that panics": func(*environment) func(context.Context) error {
			return func(ctx context.Context) error { return items.Write(ctx, item{key: "inline", panics: true}) }
		},
		"text that the table refuses": func(w *environment) func(context.Context) error {
			return func(ctx context.Context) error { return w.receiveOf("a\x00b", 1)(ctx) }
		},
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			w := newEnvironment(t).withItems(t)
			w.countInline(failure(w))
			outcome, err := w.uow.Handle(t.Context(), command("run-1", "", ""), w.receive)
			require.NoError(t, err)
			require.Equal(t, cqrs.Processed, outcome)
			require.Equal(t, int64(1), w.onHand(t))
			require.Zero(t, w.counted(t))
			require.Zero(t, w.count(t, `SELECT count(*) FROM items WHERE key = 'inline'`))
			require.Empty(t, w.published("A").Meta.HandledBy)
			require.Equal(t, cqrs.Processed, w.deliver(t, w.history(t, "A")[0]))
			require.Equal(t, int64(1), w.counted(t))
		})
	}
	t.Run("conflict with another instance", func(t *testing.T) {
		w := newEnvironment(t).countInline(nil)
		w.mustReceive(t, counter) // cached
		w.another().mustReceive(t, counter)
		attempts := 0
		outcome, err := w.uow.Handle(t.Context(), command("run-1", "", ""), func(ctx context.Context) error {
			attempts++
			return w.receive(ctx)
		})
		require.NoError(t, err)
		require.Equal(t, cqrs.Processed, outcome)
		require.Equal(t, 2, attempts)
		require.Equal(t, int64(3), w.counted(t))
		require.Equal(t, cqrs.Duplicate, w.deliver(t, w.history(t, "A")[0]))
	})
}

// An event is handled inline although its message was in conflict with other instances before: while the broker is away nobody else would handle it.
func TestInlineConsumerOfAMessageInConflict(t *testing.T) {
	w := newEnvironment(t).countInline(nil)
	other := w.another()
	w.mustReceive(t, "A")
	attempts := 0
	outcome, err := w.uow.Handle(t.Context(), command("run-1", "", ""), func(ctx context.Context) error {
		if attempts++; attempts < 3 {
			defer other.mustReceive(t, "A")
		}
		return w.receive(ctx)
	})
	require.NoError(t, err)
	require.Equal(t, cqrs.Processed, outcome)
	require.Equal(t, 3, attempts)
	require.Equal(t, []string{"count"}, w.published("A").Meta.HandledBy)
}

// When a commit is reported, the streams of the unit are free: a command that it has sent may be handled, and its answer received inline, before the unit has ended.
func TestStreamsAreFreeWhenACommitIsReported(t *testing.T) {
	w := newEnvironment(t).countInline(nil)
	var second sync.WaitGroup
	var once sync.Once
	w.uow.OnCommit = func([]cqrs.Event, []*outbox.Message) {
		once.Do(func() {
			worked := make(chan struct{})
			second.Go(func() {
				assert.NoError(t, w.uow.Within(t.Context(), func(ctx context.Context) error {
					w.bus.onPublish = sync.OnceFunc(func() { close(worked) })
					return w.receiveOf("B", 1)(ctx)
				}))
			})
			<-worked
		})
	}
	require.NoError(t, w.uow.Within(t.Context(), w.receive))
	second.Wait()
	require.Equal(t, []string{"count"}, w.published("B").Meta.HandledBy)
	require.Equal(t, int64(2), w.counted(t))
}

// The messages of a run commit together with what inline consumers have done; where one fails, only that message's event goes to the broker.
func TestInlineConsumerInARun(t *testing.T) {
	w := newEnvironment(t)
	w.countInline(func(ctx context.Context) error {
		if cqrs.MetaFromContext(ctx).Causation == "run-3" {
			return errors.New("a bug")
		}
		return nil
	})
	outcomes, attempts := w.handleInTurn(t, runOf(6), func(ctx context.Context, _, _ int) error { return w.receive(ctx) })
	for n := range outcomes {
		assert.Equal(t, cqrs.Processed, outcomes[n], n)
		assert.Equal(t, 1, attempts[n], n)
	}
	require.Equal(t, 1, w.transactions(t))
	require.Equal(t, int64(5), w.counted(t))
	for _, e := range w.history(t, "A") {
		want := cqrs.Duplicate
		if e.Meta.Causation == "run-3" {
			want = cqrs.Processed
		}
		require.Equal(t, want, w.deliver(t, e))
	}
	require.Equal(t, int64(6), w.counted(t))
}

// A commit that is in doubt does not run again without inline consumers: it may have taken effect, and a request has no inbox row that would show it.
func TestInlineConsumerAndACommitInDoubt(t *testing.T) {
	for name, inline := range map[string]bool{"without": false, "with": true} {
		t.Run(name, func(t *testing.T) {
			_, dsn := kittest.Database(t)
			config, err := pgx.ParseConfig(dsn)
			require.NoError(t, err)
			l := &onceLiar{Connector: stdlib.GetConnector(*config)}
			db := sqlx.NewDb(sql.OpenDB(l), "pgx")
			t.Cleanup(func() { _ = db.Close() })
			w := (&environment{db: db}).another()
			if inline {
				w.countInline(nil)
			}
			w.uow.Committing = func() func() { l.lies.Store(true); return func() {} }
			attempts := 0
			err = w.uow.Within(t.Context(), func(ctx context.Context) error { attempts++; return w.receive(ctx) })
			require.Error(t, err)
			require.Equal(t, cqrs.KindTransient, cqrs.KindOf(err), "%v", err)
			require.Equal(t, 1, attempts)
			require.Equal(t, int64(1), w.onHand(t))
		})
	}
}

// onceLiar says, the next time that it lies, that a commit timed out which took effect.
type onceLiar struct {
	driver.Connector
	lies atomic.Bool
}

func (l *onceLiar) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := l.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &onceLyingConn{c.(pgxConn), l}, nil
}

type onceLyingConn struct {
	pgxConn
	liar *onceLiar
}

func (c *onceLyingConn) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	r := c.pgxConn.Conn().SendBatch(ctx, b)
	if c.liar.lies.CompareAndSwap(true, false) {
		return lyingResults{r, errTimeout}
	}
	return r
}

// A consumer that fails each time, as a saga that begins to wait for an event, leaves the aggregate of the message as it is: it has snapshots, and
// is folded once for a run.
func TestInlineConsumerThatFailsLeavesTheAggregate(t *testing.T) {
	fails := func(context.Context) error { return errors.New("not inline") }
	t.Run("snapshots", func(t *testing.T) {
		w := newEnvironment(t).snapshots(10).countInline(fails)
		for n := range 30 {
			_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("run-", n), "", ""), w.receive)
			require.NoError(t, err)
		}
		require.Positive(t, w.count(t, `SELECT count(*) FROM snapshots WHERE stream = 'inventory/A'`))
	})
	t.Run("folds", func(t *testing.T) {
		w, folds := newEnvironment(t), 0
		w.stock = eventstore.NewRepository(w.store, inventory.Category, func(history []inventory.Event) *inventory.Stock {
			folds++
			return inventory.Rebuild(history)
		}, eventstore.Options{})
		w.uow.Inline = []cqrs.InlineConsumer{{
			Name: "count", Consumer: "counts", Category: inventory.Category,
			Takes:  func(cqrs.Event) (bool, bool) { return true, true },
			Handle: func(ctx context.Context, _ cqrs.Event) error { return fails(ctx) },
		}}
		w.handleInTurn(t, runOf(20), func(ctx context.Context, _, _ int) error { return w.receive(ctx) })
		require.Equal(t, 1, folds)
	})
}

// An inline consumer does not wait for a stream that another unit holds.
func TestInlineConsumerDoesNotWait(t *testing.T) {
	t.Run("for another unit", func(t *testing.T) {
		w := newEnvironment(t).countInline(nil)
		holds, ends, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- w.uow.Within(t.Context(), func(ctx context.Context) error {
				err := w.receiveOf(counter, 10)(ctx)
				close(holds)
				<-ends
				return err
			})
		}()
		<-holds
		_, err := w.uow.Handle(t.Context(), command("run-1", "", ""), w.receive)
		require.NoError(t, err)
		require.Equal(t, int64(1), w.onHand(t), "it is committed while the other unit holds the counter")
		require.Empty(t, w.published("A").Meta.HandledBy)
		close(ends)
		require.NoError(t, <-ended)
		require.Equal(t, int64(10), w.counted(t))
	})
	t.Run("but loads what it does not know, in a run too", func(t *testing.T) { // else the broker would have to deliver the event, which may be away
		w := newEnvironment(t)
		w.mustReceive(t, "known")
		streams := map[string]string{"run-0": "unknown 1", "run-1": "unknown 2", "run-2": "known", "run-3": "unknown 1"}
		w.uow.Inline = []cqrs.InlineConsumer{{
			Name: "count", Consumer: "counts", Category: inventory.Category,
			Takes: func(e cqrs.Event) (bool, bool) { return e.Key == "A", true },
			Handle: func(ctx context.Context, e cqrs.Event) error {
				return w.receiveOf(streams[e.Meta.Causation], 1)(ctx)
			},
		}}
		w.handleInTurn(t, runOf(4), func(ctx context.Context, _, _ int) error { return w.receive(ctx) })
		inline := map[string]bool{}
		for _, e := range w.bus.published {
			if e.Key == "A" {
				inline[e.Meta.Causation] = len(e.Meta.HandledBy) > 0
			}
		}
		require.Equal(t, map[string]bool{"run-0": true, "run-1": true, "run-2": true, "run-3": true}, inline)
	})
}

// After a conflict on the stream of an inline consumer, the aggregate of the message, which nobody else has changed, is not locked as one that many
// instances change.
func TestInlineConsumersConflictIsItsOwn(t *testing.T) {
	w := newEnvironment(t).contended().countInline(nil)
	w.mustReceive(t, "A")
	w.mustReceive(t, counter)
	w.another().mustReceive(t, counter)
	for n, want := range []int{2, 1} {
		attempts := 0
		_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("run-", n), "", ""), func(ctx context.Context) error {
			attempts++
			err := w.receive(ctx)
			assert.False(t, txn.UnitFromContext(ctx).OwnTransaction())
			return err
		})
		require.NoError(t, err)
		require.Equal(t, want, attempts)
	}
}

// A message that is given up while its run goes on, with the inline consumers of the messages after it.
func TestInlineConsumersOfARunThatGoesOn(t *testing.T) {
	w := newEnvironment(t).countInline(nil)
	for round := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		var before *cqrs.Turn
		var handling sync.WaitGroup
		for n := range 6 {
			turn := cqrs.NewTurn(before)
			before = turn
			handling.Go(func() {
				defer turn.Done()
				own := cqrs.WithTurn(t.Context(), turn)
				if n == 0 {
					own = cqrs.WithTurn(ctx, turn)
				}
				_, err := w.uow.Handle(own, command(fmt.Sprint("run-", round, "-", n), "", ""), func(ctx context.Context) error {
					switch n {
					case 0:
						time.Sleep(20 * time.Millisecond) // until the others wait
					case 2:
						cancel()
					}
					return w.receive(ctx)
				})
				if n != 0 && err != nil {
					t.Errorf("message %d: %v", n, err)
				}
			})
		}
		handling.Wait()
		cancel()
	}
	require.Equal(t, int64(60), w.onHand(t))
}

// However events reach a consumer, inline or by the broker, once or twice, at whichever of three instances, it handles each once, and no message is lost.
func TestInlineConsumerOfSeveralInstances(t *testing.T) {
	first := newEnvironment(t).withItems(t)
	instances := []*environment{first.another(), first.another(), first.another()}
	for _, w := range instances {
		w.countInline(func(ctx context.Context) error {
			switch rand.N(8) {
			case 0:
				return errors.New("a bug")
			case 1:
				return items.Write(ctx, item{key: "inline", n: 5000})
			case 2:
				panic("a bug")
			}
			return nil
		})
	}
	const messages = 300
	var handling sync.WaitGroup
	for n := range messages {
		handling.Go(func() {
			w := instances[rand.N(3)]
			for _, outcome := range []cqrs.Outcome{cqrs.Processed, cqrs.Duplicate}[:1+rand.N(2)] {
				got, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), w.receiveOf(fmt.Sprint("SKU-", n%7), 1))
				if err != nil || got != outcome {
					t.Errorf("message %d: %s, %v; want %s", n, got, err, outcome)
				}
				w = instances[rand.N(3)]
			}
		})
	}
	handling.Wait()
	inline := first.counted(t)
	t.Logf("%d of %d events were handled inline", inline, messages)
	require.Positive(t, inline)
	require.Less(t, inline, int64(messages))
	for n := range 7 {
		for _, e := range first.history(t, fmt.Sprint("SKU-", n)) {
			for range 2 {
				handling.Go(func() { instances[rand.N(3)].deliver(t, e) })
			}
		}
	}
	handling.Wait()
	require.Equal(t, int64(messages), first.counted(t))
	marked := 0
	for _, w := range instances {
		for _, e := range w.bus.published {
			if strings.HasPrefix(e.Key, "SKU-") && len(e.Meta.HandledBy) > 0 {
				marked++
			}
		}
	}
	require.GreaterOrEqual(t, marked, int(inline), "published, or published again after a conflict")
}
