package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func runOf(messages int) (ids []string) {
	for n := range messages {
		ids = append(ids, fmt.Sprint("run-", n))
	}
	return ids
}

// contended is another instance on the same database, which locks stock that many want.
func (w *environment) contended() *environment {
	w = w.another()
	w.stock = eventstore.NewRepository(w.store, inventory.Category, inventory.Rebuild, eventstore.Options{Contended: true})
	return w
}

// A run has at most 64 messages, so that the first ones do not wait for ever.
func TestRunHasABound(t *testing.T) {
	w := newEnvironment(t)
	outcomes, _ := w.handleInTurn(t, runOf(70), func(ctx context.Context, _, _ int) error { return w.receiveOf("A", 1)(ctx) })
	for n := range outcomes {
		assert.Equal(t, cqrs.Processed, outcomes[n])
	}
	require.Equal(t, 2, w.transactions(t))
	require.Equal(t, int64(70), w.onHand(t))
}

// A run whose streams another instance has changed runs again with what is stored, not with what was cached.
func TestRunReadsAgainAfterAConflict(t *testing.T) {
	for name, w := range map[string]*environment{"optimistic": newEnvironment(t).another(), "contended": newEnvironment(t).contended()} {
		t.Run(name, func(t *testing.T) {
			w.mustReceive(t, "A")
			w.another().mustReceive(t, "A")
			outcomes, attempts := w.handleInTurn(t, runOf(8), func(ctx context.Context, _, _ int) error { return w.receiveOf("A", 1)(ctx) })
			for n := range attempts {
				assert.Equal(t, cqrs.Processed, outcomes[n])
				assert.Equal(t, 2, attempts[n], n)
			}
			require.Equal(t, 2, w.transactions(t), "two runs of half the length")
			require.Equal(t, int64(10), w.onHand(t))
		})
	}
}

// A message whose rows cannot be written is found by halves: the others of its run commit in few transactions, and only it runs alone.
func TestBadMessageOfARunIsFoundByHalves(t *testing.T) {
	w := newEnvironment(t).withItems(t)
	outcomes, attempts := w.handleInTurn(t, runOf(16), func(ctx context.Context, n, attempt int) error {
		bad := item{key: fmt.Sprint("item ", n), n: 1}
		if n == 7 && attempt <= 5 {
			bad.n = 5000 // the table has a check
		}
		return errors.Join(w.receiveOf("A", 1)(ctx), items.Write(ctx, bad))
	})
	for n := range outcomes {
		assert.Equal(t, cqrs.Processed, outcomes[n])
	}
	sum := 0
	for _, n := range attempts {
		sum += n
	}
	t.Logf("attempts %v, %d transactions", attempts, w.transactions(t))
	require.LessOrEqual(t, sum, 4*16)
	require.LessOrEqual(t, w.transactions(t), 8, "if all goes well: messages 0 to 3, 4 and 5, 6, 7, 8 to 15")
}

// After a conflict a stream that many want is locked before it is read. A run that holds the lock still lets messages in, and each fails alone.
func TestRunThatHoldsALock(t *testing.T) {
	start := func(t *testing.T) *environment {
		w := newEnvironment(t).contended()
		w.mustReceive(t, "A")
		w.another().mustReceive(t, "A")
		w.mustReceive(t, "A") // a conflict: it is locked from now on
		return w
	}
	processed := func(t *testing.T, outcomes []cqrs.Outcome) {
		for n := range outcomes {
			assert.Equal(t, cqrs.Processed, outcomes[n], n)
		}
	}
	t.Run("commits once", func(t *testing.T) {
		w := start(t)
		outcomes, attempts := w.handleInTurn(t, runOf(5), func(ctx context.Context, _, _ int) error {
			err := w.receiveOf("A", 1)(ctx)
			assert.True(t, txn.UnitFromContext(ctx).OwnTransaction())
			return err
		})
		processed(t, outcomes)
		require.Equal(t, []int{1, 1, 1, 1, 1}, attempts)
		require.Equal(t, 1, w.transactions(t))
		require.Equal(t, int64(8), w.onHand(t))
	})
	t.Run("a message fails", func(t *testing.T) {
		w := start(t)
		outcomes, attempts := w.handleInTurn(t, runOf(3), func(ctx context.Context, n, attempt int) error {
			err := w.receiveOf("A", 1)(ctx)
			if n == 1 && attempt == 1 {
				return errors.Join(err, errors.New("not now"))
			}
			return err
		})
		processed(t, outcomes)
		require.Equal(t, 2, attempts[1])
		require.Equal(t, int64(6), w.onHand(t))
	})
	t.Run("a message breaks the connection", func(t *testing.T) {
		w := start(t)
		outcomes, attempts := w.handleInTurn(t, runOf(3), func(ctx context.Context, n, attempt int) error {
			if n == 1 && attempt == 1 {
				_, err := w.db.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'`)
				return errors.Join(err, w.receiveOf("B", 1)(ctx))
			}
			return w.receiveOf("A", 1)(ctx)
		})
		processed(t, outcomes)
		require.Equal(t, 2, attempts[0], "it runs again, and is not stored for later")
		require.Equal(t, 2, attempts[1])
		require.Equal(t, int64(6), w.onHand(t))
	})
	t.Run("a message needs the transaction", func(t *testing.T) {
		w := start(t)
		outcomes, attempts := w.handleInTurn(t, runOf(3), func(ctx context.Context, n, _ int) error {
			if n != 1 {
				return w.receiveOf("A", 1)(ctx)
			}
			tx, err := txn.FromContext(ctx)
			if err != nil {
				return err
			}
			var events int
			err = tx.GetContext(ctx, &events, `SELECT count(*) FROM events`)
			assert.Equal(t, 4, events, "it sees the message before it")
			return err
		})
		processed(t, outcomes)
		require.Equal(t, 2, attempts[1])
	})
	t.Run("a message runs into another lock", func(t *testing.T) {
		w := start(t)
		held := w.locked(t, `SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' inventory/B', 0))`)
		var once sync.Once
		outcomes, attempts := w.handleInTurn(t, runOf(3), func(ctx context.Context, n, attempt int) error {
			if n == 1 && attempt == 2 {
				once.Do(func() { _ = held.Rollback() })
			}
			err := w.receiveOf("A", 1)(ctx)
			if n == 1 {
				err = errors.Join(err, w.receiveOf("B", 1)(ctx))
			}
			return err
		})
		processed(t, outcomes)
		require.Equal(t, 1, attempts[0], "it commits without the message that waits")
		require.Equal(t, 2, attempts[1])
		require.Equal(t, int64(6), w.onHand(t))
	})
}

// To wait for others is no failure, however long it takes: for a stream that others hold, and for a commit after other commits.
func TestWaitingIsNoFailure(t *testing.T) {
	kittest.Long(t)
	t.Run("for a stream", func(t *testing.T) {
		w := newEnvironment(t)
		var attempts [3]int
		var handling sync.WaitGroup
		for n := range attempts {
			handling.Go(func() {
				time.Sleep(time.Duration(n) * 100 * time.Millisecond)
				_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), func(ctx context.Context) error {
					attempts[n]++
					return w.stock.Update(ctx, "A", func(s *inventory.Stock) error {
						if n < 2 {
							time.Sleep(9 * time.Second)
						}
						return s.Receive("A", 1)
					})
				})
				assert.NoError(t, err)
			})
		}
		handling.Wait()
		require.Equal(t, int64(3), w.onHand(t))
		require.Equal(t, [3]int{1, 1, 2}, attempts, "the third waited for longer than a unit may work")
	})
	t.Run("for a commit", func(t *testing.T) {
		w := newEnvironment(t)
		var once sync.Once
		w.uow.Committing = func() func() {
			once.Do(func() { time.Sleep(16 * time.Second) })
			return func() {}
		}
		var handling sync.WaitGroup
		for n := range 3 {
			handling.Go(func() {
				time.Sleep(time.Duration(n) * 100 * time.Millisecond)
				_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), w.receiveOf(fmt.Sprint("SKU-", n), 1))
				if n > 0 {
					assert.NoError(t, err) // the first one's own commit took too long
				}
			})
		}
		handling.Wait()
		require.GreaterOrEqual(t, w.count(t, `SELECT count(*) FROM inbox`), 2)
	})
}
