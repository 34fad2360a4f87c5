package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
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

// An event that does not concern a consumer is marked too: the consumer passes over it. Events of a message are handled all inline, or none.
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
	require.Equal(t, []string{"count"}, w.published("A").Meta.HandledBy, "it does not concern the consumer")
	both(1, 13)
	require.Equal(t, int64(2), w.counted(t))
	require.Empty(t, w.published("A").Meta.HandledBy)
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
		require.Equal(t, int64(2), w.counted(t))
		require.Equal(t, cqrs.Processed, w.deliver(t, w.history(t, "A")[0]))
		require.Equal(t, int64(3), w.counted(t))
	})
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
