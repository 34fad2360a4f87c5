package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
)

// These tests run several instances on one database. Each instance keeps streams in memory; the other instances write the same
// streams meanwhile.

// mustReceive adds 1 to the stock of a SKU in a unit of work of the instance.
func (w *environment) mustReceive(t *testing.T, sku string) {
	t.Helper()
	require.NoError(t, w.uow.Within(t.Context(), w.receiveOf(sku, 1)))
}

// versions are the stored versions of a SKU's stream.
func (w *environment) versions(t *testing.T, sku string) (versions []int) {
	t.Helper()
	require.NoError(t, w.db.Select(&versions, `SELECT version FROM events WHERE stream = 'inventory/' || $1 ORDER BY version`, sku))
	return versions
}

// requireContiguous checks that a stream is 1, 2, …, n, and that an instance without anything in memory counts n and can append.
func requireContiguous(t *testing.T, w *environment, sku string, n int) {
	t.Helper()
	for i, version := range w.versions(t, sku) {
		require.Equal(t, i+1, version, "stream %s has a gap: %v", sku, w.versions(t, sku))
	}
	fresh := w.another()
	s, err := fresh.stock.Load(t.Context(), sku)
	require.NoError(t, err)
	require.Equal(t, n, s.Version())
	require.Equal(t, int64(n), s.OnHand())
	fresh.mustReceive(t, sku)
}

// Two instances write one stream in turn. Instance A then handles a command that is refused, or fails, or panics, or is cancelled.
// None of them may leave anything in memory that the next unit of A builds on.
func TestStreamHasNoGapAfterAFailedUnit(t *testing.T) {
	failure := errors.New("no")
	for name, fail := range map[string]func(*testing.T, *environment){
		"refused": func(t *testing.T, a *environment) {
			err := a.uow.Within(t.Context(), func(ctx context.Context) error {
				return a.stock.Update(ctx, "A", func(s *inventory.Stock) error { return s.Commit("A", "unknown") })
			})
			require.ErrorIs(t, err, inventory.ErrNotReserved)
		},
		"refused in the inbox": func(t *testing.T, a *environment) {
			outcome, err := a.uow.Handle(t.Context(), command("refused", "s", cqrs.BranchAction), func(ctx context.Context) error {
				return errors.Join(a.receive(ctx), a.stock.Update(ctx, "A", func(s *inventory.Stock) error { return s.Commit("A", "unknown") }))
			})
			require.NoError(t, err)
			require.Equal(t, cqrs.Refused, outcome)
		},
		"failed": func(t *testing.T, a *environment) {
			require.ErrorIs(t, a.uow.Within(t.Context(), func(ctx context.Context) error { return errors.Join(a.receive(ctx), failure) }), failure)
		},
		"panicked": func(t *testing.T, a *environment) {
			require.PanicsWithValue(t, "bug", func() {
				_ = a.uow.Within(t.Context(), func(ctx context.Context) error { _ = a.receive(ctx); panic("bug") })
			})
		},
		"cancelled": func(t *testing.T, a *environment) {
			ctx, cancel := context.WithCancel(t.Context())
			require.ErrorIs(t, a.uow.Within(ctx, func(ctx context.Context) error { cancel(); return a.receive(ctx) }), context.Canceled)
		},
	} {
		for _, every := range []int{0, 3} {
			t.Run(fmt.Sprint(name, ", snapshot every ", every), func(t *testing.T) {
				w := newEnvironment(t)
				a, b := w.snapshots(every), w.snapshots(every)
				for range 4 { // until A has noticed that another instance writes
					a.mustReceive(t, "A")
					b.mustReceive(t, "A")
				}
				b.mustReceive(t, "A")
				fail(t, a)
				n := len(a.versions(t, "A")) // a cancelled unit may have been committed all the same
				a.mustReceive(t, "A")
				requireContiguous(t, a, "A", n+1)
			})
		}
	}
}

// Instance A refuses by a state in memory that B has changed. The refusal is not final before A has looked.
func TestRefusalOutsideTheInboxIsDecidedOnTheStoredState(t *testing.T) {
	for _, every := range []int{0, 100} {
		w := newEnvironment(t)
		a, b := w.snapshots(every), w.snapshots(every)
		for n := range 3 {
			a.mustReceive(t, "A") // A has the stream in memory
			order := fmt.Sprint("order-", n)
			require.NoError(t, b.uow.Within(t.Context(), func(ctx context.Context) error {
				return b.stock.Update(ctx, "A", func(s *inventory.Stock) error { return s.Reserve("A", order, 1) })
			}))
			require.NoError(t, a.uow.Within(t.Context(), func(ctx context.Context) error {
				return a.stock.Update(ctx, "A", func(s *inventory.Stock) error { return s.Commit("A", order) })
			}), "B has reserved")
		}
	}
}

// A panic that comes of a stale state is no panic: the unit runs again with what is stored.
func TestPanicOnStaleMemoryIsRetried(t *testing.T) {
	for name, within := range map[string]func(*environment, func(context.Context) error) error{
		"outside the inbox": func(w *environment, work func(context.Context) error) error {
			return w.uow.Within(context.Background(), work)
		},
		"in the inbox": func(w *environment, work func(context.Context) error) error {
			_, err := w.verifyDuplicates(1<<40).uow.Handle(context.Background(), command("m-1", "", ""), work)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newEnvironment(t)
			b := a.another()
			a.mustReceive(t, "A")
			b.mustReceive(t, "A")
			require.NoError(t, within(a, func(ctx context.Context) error {
				return a.stock.Update(ctx, "A", func(s *inventory.Stock) error {
					if s.OnHand() < 2 {
						panic("there must be 2")
					}
					return nil
				})
			}))
		})
	}
}

// A refusal by the history of a stream that was read only.
func TestRefusalByAHistoryIsDecidedOnTheStoredState(t *testing.T) {
	w := newEnvironment(t)
	a, b := w.another(), w.another()
	a.mustReceive(t, "A")
	few := errors.New("too few events")
	atLeast := func(n int) error {
		return a.uow.Within(t.Context(), func(ctx context.Context) error {
			history, err := a.store.History(ctx, inventory.Category, "A")
			if err == nil && len(history) < n {
				err = few
			}
			return err
		})
	}
	require.NoError(t, atLeast(1)) // A has the history in memory
	b.mustReceive(t, "A")
	require.NoError(t, atLeast(2))
	require.ErrorIs(t, atLeast(3), few)
}

// That a stream does not exist is read from memory too.
func TestNotFoundIsDecidedOnTheStoredState(t *testing.T) {
	a := newEnvironment(t)
	b := a.another()
	look := func(ctx context.Context) error {
		_, err := a.store.History(ctx, inventory.Category, "A")
		return err
	}
	require.NoError(t, a.uow.Within(t.Context(), func(ctx context.Context) error {
		require.ErrorIs(t, look(ctx), cqrs.ErrNotFound)
		return nil // A has in memory that there is no such stream
	}))
	b.mustReceive(t, "A")
	require.NoError(t, a.uow.Within(t.Context(), look))
}
