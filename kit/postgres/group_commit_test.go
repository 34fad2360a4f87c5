package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func (w *environment) receiveOf(sku string, quantity int64) func(context.Context) error {
	return func(ctx context.Context) error {
		return w.stock.Update(ctx, sku, func(s *inventory.Stock) error { return s.Receive(sku, quantity) })
	}
}

// Units of different streams that end at the same time share transactions.
func TestGroupCommit(t *testing.T) {
	for name, skus := range map[string]int{"of many streams": 500, "of one stream": 1} {
		t.Run(name, func(t *testing.T) {
			w := newEnvironment(t)
			const units = 500
			var handling sync.WaitGroup
			for n := range units {
				handling.Go(func() {
					outcome, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), w.receiveOf(fmt.Sprint("SKU-", n%skus), 1))
					if err != nil || outcome != cqrs.Processed {
						t.Errorf("%s %v", outcome, err)
					}
				})
			}
			handling.Wait()
			require.Equal(t, units, w.count(t, `SELECT count(*) FROM events`))
			require.Equal(t, units, w.count(t, `SELECT count(*) FROM inbox`))
			require.Equal(t, units, w.count(t, `SELECT count(*) FROM outbox`))
			transactions := w.count(t, `SELECT count(DISTINCT xmin::text) FROM events`)
			t.Logf("%d units in %d transactions", units, transactions)
			if skus > 1 { // those of one stream take turns, unless they are messages of one key: TestMessagesOfOneKeyCommitTogether
				require.Less(t, transactions, units/4)
			}
			s, err := w.stock.Load(t.Context(), "SKU-0")
			require.NoError(t, err)
			require.Equal(t, int64(units/skus), s.OnHand())
		})
	}
}

// Among many that commit together, some refuse, some fail, some were handled before, some are too late at their streams, because another
// instance writes them too: each for itself. What is stored is what those said that succeeded.
func TestEachUnitFailsAlone(t *testing.T) {
	w := newEnvironment(t)
	other := w.another()
	const units, skus = 400, 5
	failure := errors.New("no")
	var mu sync.Mutex
	want := map[string]int64{}
	var handling sync.WaitGroup
	for n := range units {
		instance := w
		if n%3 == 0 {
			instance = other
		}
		sku, id := fmt.Sprint("SKU-", n%skus), fmt.Sprint("m-", n)
		handling.Go(func() {
			time.Sleep(rand.N(20 * time.Millisecond))
			quantity := int64(0)
			switch n % 10 {
			case 0:
				_, err := instance.uow.Handle(t.Context(), command(id, "", ""), func(ctx context.Context) error {
					return errors.Join(instance.receiveOf(sku, 1000)(ctx), failure)
				})
				if !errors.Is(err, failure) {
					t.Error(id, err)
				}
			case 1:
				outcome, err := instance.uow.Handle(t.Context(), command(id, id, cqrs.BranchAction), func(ctx context.Context) error {
					return errors.Join(instance.receiveOf(sku, 1000)(ctx), inventory.ErrNotReserved)
				})
				if err != nil || outcome != cqrs.Refused {
					t.Error(id, outcome, err)
				}
			case 2: // twice at the same time
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() {
						if _, err := instance.uow.Handle(t.Context(), command(id, "", ""), instance.receiveOf(sku, 1)); err != nil {
							t.Error(id, err)
						}
					})
				}
				both.Wait()
				quantity = 1
			default:
				if outcome, err := instance.uow.Handle(t.Context(), command(id, "", ""), instance.receiveOf(sku, 1)); err != nil || outcome != cqrs.Processed {
					t.Error(id, outcome, err)
				}
				quantity = 1
			}
			mu.Lock()
			defer mu.Unlock()
			want[sku] += quantity
		})
	}
	handling.Wait()
	for sku, quantity := range want {
		s, err := w.stock.Load(t.Context(), sku)
		require.NoError(t, err)
		require.Equal(t, quantity, s.OnHand(), sku)
		require.Equal(t, int(quantity), s.Version(), sku)
	}
	require.Equal(t, units-units/10, w.count(t, `SELECT count(*) FROM inbox`))
}

// handleInTurn handles messages of one key, as the middleware does: all are started together, each with its turn. The first one works when the second one
// waits for its turn. The result is the outcome of each message, and how often it worked.
func (w *environment) handleInTurn(t *testing.T, ids []string, work func(ctx context.Context, n, attempt int) error) (outcomes []cqrs.Outcome, attempts []int) {
	t.Helper()
	outcomes, attempts = make([]cqrs.Outcome, len(ids)), make([]int, len(ids))
	var before *cqrs.Turn
	var handling sync.WaitGroup
	for n, id := range ids {
		turn := cqrs.NewTurn(before)
		before = turn
		handling.Go(func() {
			defer turn.Done()
			for {
				early := turn.Look()
				outcome, err := w.uow.Handle(cqrs.WithTurn(t.Context(), turn), command(id, "", ""), func(ctx context.Context) error {
					attempts[n]++
					if n == 0 {
						time.Sleep(100 * time.Millisecond) // until the others wait for their turns
					}
					return work(ctx, n, attempts[n])
				})
				if err == nil || !early {
					assert.NoError(t, err, id)
					outcomes[n] = outcome
					return
				}
				assert.NoError(t, turn.Wait(t.Context()))
			}
		})
	}
	handling.Wait()
	return outcomes, attempts
}

func (w *environment) transactions(t *testing.T) int {
	t.Helper()
	return w.count(t, `SELECT count(DISTINCT xmin::text) FROM inbox WHERE message_id LIKE 'run-%'`)
}

// Messages of one key that wait are one unit of work: each sees what the one before has recorded, and all commit in one transaction.
func TestMessagesOfOneKeyCommitTogether(t *testing.T) {
	w := newEnvironment(t)
	outcomes, attempts := w.handleInTurn(t, []string{"run-1", "run-2", "run-3"}, func(ctx context.Context, n, _ int) error {
		return w.stock.Update(ctx, "A", func(s *inventory.Stock) error {
			assert.Equal(t, int64(n*10), s.OnHand())
			return s.Receive("A", 10)
		})
	})
	require.Equal(t, []cqrs.Outcome{cqrs.Processed, cqrs.Processed, cqrs.Processed}, outcomes)
	require.Equal(t, []int{1, 1, 1}, attempts)
	require.Equal(t, 1, w.transactions(t))
	require.Equal(t, 3, w.count(t, `SELECT count(*) FROM events`))
	require.Equal(t, 3, w.count(t, `SELECT count(DISTINCT meta->>'causation') FROM events`))
}

// A message that fails, or panics, after it has recorded something fails alone: those before it commit without it, and it runs again after them.
func TestMessageOfARunFailsAlone(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("not now") },
		"panic": func() error { panic("not now") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newEnvironment(t)
			outcomes, attempts := w.handleInTurn(t, []string{"run-1", "run-2", "run-3"}, func(ctx context.Context, n, attempt int) error {
				if err := w.receiveOf("A", 1)(ctx); err != nil {
					return err
				}
				if n == 1 && attempt == 1 {
					return fail()
				}
				return nil
			})
			require.Equal(t, []cqrs.Outcome{cqrs.Processed, cqrs.Processed, cqrs.Processed}, outcomes)
			require.Equal(t, 1, attempts[0])
			require.Equal(t, 2, attempts[1])
			s, err := w.another().stock.Load(t.Context(), "A")
			require.NoError(t, err)
			require.Equal(t, int64(3), s.OnHand())
			require.Equal(t, 3, s.Version())
		})
	}
}

// A refusal within a run has no effect but its answer, and the messages after it see nothing of it.
func TestRefusalInARun(t *testing.T) {
	w := newEnvironment(t)
	w.uow.VerifyDuplicates(time.Hour) // the refusal of a message that was not looked up does not count, so it would run again alone
	var handling sync.WaitGroup
	var before *cqrs.Turn
	for n := range 3 {
		turn := cqrs.NewTurn(before)
		before = turn
		handling.Go(func() {
			defer turn.Done()
			outcome, err := w.uow.Handle(cqrs.WithTurn(t.Context(), turn), command(fmt.Sprint("run-", n), fmt.Sprint("step ", n), cqrs.BranchAction), func(ctx context.Context) error {
				if n == 0 {
					time.Sleep(100 * time.Millisecond)
				}
				return w.stock.Update(ctx, "A", func(s *inventory.Stock) error {
					assert.Equal(t, int64(n-n/2), s.OnHand()) // 0, 1, 1
					if err := s.Receive("A", 1); err != nil {
						return err
					}
					if n == 1 {
						return aggregate.Refuse("no room")
					}
					return nil
				})
			})
			if err != nil {
				t.Error(err)
			}
			assert.Equal(t, map[bool]cqrs.Outcome{false: cqrs.Processed, true: cqrs.Refused}[n == 1], outcome)
		})
	}
	handling.Wait()
	require.Equal(t, 1, w.transactions(t))
	require.Equal(t, 2, w.count(t, `SELECT count(*) FROM events`))
	require.Equal(t, 1, w.count(t, `SELECT count(*) FROM inbox WHERE outcome = 'refused'`))
}

// If a run cannot commit, because one of its messages was handled by another instance meanwhile, all its messages run again, in halves.
func TestRunThatCannotCommit(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`INSERT INTO inbox (consumer, message_id, outcome) VALUES ('c', 'run-2', 'done')`)
	require.NoError(t, err)
	outcomes, _ := w.handleInTurn(t, []string{"run-1", "run-2", "run-3"}, func(ctx context.Context, _, _ int) error { return w.receiveOf("A", 1)(ctx) })
	require.Equal(t, []cqrs.Outcome{cqrs.Processed, cqrs.Duplicate, cqrs.Processed}, outcomes)
	require.Equal(t, 2, w.count(t, `SELECT count(*) FROM events`))
}

// A message that needs a transaction of its own waits until the messages before it have committed: its transaction would not see what they write.
func TestOwnTransactionAfterARun(t *testing.T) {
	w := newEnvironment(t)
	outcomes, attempts := w.handleInTurn(t, []string{"run-1", "run-2"}, func(ctx context.Context, n, _ int) error {
		if n == 0 {
			return w.receiveOf("A", 1)(ctx)
		}
		tx, err := txn.FromContext(ctx)
		if err != nil {
			return err
		}
		var seen int
		if err := tx.GetContext(ctx, &seen, `SELECT count(*) FROM events`); err != nil {
			return err
		}
		assert.Equal(t, 1, seen)
		return nil
	})
	require.Equal(t, []cqrs.Outcome{cqrs.Processed, cqrs.Processed}, outcomes)
	require.Equal(t, []int{1, 2}, attempts)
}

// An aggregate of ten thousand events is loaded from its snapshot and what came after it.
func TestALongHistoryIsNotReadAgain(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`INSERT INTO events (position, stream, version, type, schema, payload, meta, at)
		SELECT nextval('events_position'), 'inventory/LONG', n, 'inventory.received', 1, '{"sku":"LONG","quantity":1}', '{}', now() FROM generate_series(1, 10000) n`)
	require.NoError(t, err)
	a := w.snapshots(100)
	a.mustReceive(t, "LONG")                                                                    // there is no snapshot yet: one is due
	_, err = w.db.Exec(`DELETE FROM events WHERE stream = 'inventory/LONG' AND version < 9990`) // they are not needed
	require.NoError(t, err)
	again, err := w.snapshots(100).stock.Load(t.Context(), "LONG")
	require.NoError(t, err)
	require.Equal(t, 10_001, again.Version())
	require.Equal(t, int64(10_001), again.OnHand())
}

// Of a long stream without snapshots an instance keeps the aggregate, so that it does not read the history for each command.
func TestALongHistoryWithoutSnapshotsIsNotReadAgain(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`INSERT INTO events (position, stream, version, type, schema, payload, meta, at)
		SELECT nextval('events_position'), 'inventory/LONG', n, 'inventory.received', 1, '{"sku":"LONG","quantity":1}', '{}', now() FROM generate_series(1, 3000) n`)
	require.NoError(t, err)
	w.mustReceive(t, "LONG")
	_, err = w.db.Exec(`DELETE FROM events WHERE stream = 'inventory/LONG' AND version < 2990`)
	require.NoError(t, err)
	for range 3 {
		w.mustReceive(t, "LONG") // to read it now would find a gap
	}
	_, err = w.stock.Load(t.Context(), "LONG")
	require.ErrorContains(t, err, "stream inventory/LONG has a gap")
	require.Equal(t, 3004, w.count(t, `SELECT max(version) FROM events WHERE stream = 'inventory/LONG'`))
}

// Three instances want the same few aggregates, several at a time, for a while. Whoever was too late queues up in the database; nobody
// waits in memory for one who waits for him in the database, so that nobody comes to the end of its patience.
func TestInstancesThatWantTheSameDoNotBlockEachOther(t *testing.T) {
	w := newEnvironment(t)
	instances := []*environment{w, w.another(), w.another()}
	const workers, rounds = 16, 12
	skus := []string{"A", "B", "C", "D"}
	var handling sync.WaitGroup
	for n := range workers * len(instances) {
		instance := instances[n%len(instances)]
		handling.Go(func() {
			for round := range rounds {
				pair := []string{skus[rand.IntN(2)], skus[2+rand.IntN(2)]}
				id := fmt.Sprint("m-", n, "-", round)
				for { // as the router does
					outcome, err := instance.uow.Handle(t.Context(), command(id, "", ""), func(ctx context.Context) error {
						return instance.stock.UpdateAll(ctx, pair, func(both []*inventory.Stock) error {
							return errors.Join(both[0].Receive(pair[0], 1), both[1].Receive(pair[1], 1))
						})
					})
					if err == nil {
						require.Equal(t, cqrs.Processed, outcome)
						break
					}
					if kind := cqrs.KindOf(err); kind != cqrs.KindConflict {
						t.Errorf("%s %s: %v", id, kind, err)
						return
					}
				}
			}
		})
	}
	handling.Wait()
	require.Equal(t, 2*workers*rounds*len(instances), w.count(t, `SELECT count(*) FROM events`))
}

// A stream that is kept for the next unit must not keep what the last one has written.
func TestCommittedUnitsAreFreed(t *testing.T) {
	w := newEnvironment(t)
	var written weak.Pointer[message.Message]
	_, err := w.uow.Handle(t.Context(), command("m-1", "reserve", cqrs.BranchAction), func(ctx context.Context) error {
		msg := message.NewMessage("sent", []byte("x"))
		written = weak.Make(msg)
		msg.SetContext(ctx)
		return errors.Join(w.receiveOf("A", 1)(ctx), w.bus.publisher.Publish("effects", msg))
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		runtime.GC()
		return written.Value() == nil
	}, 5*time.Second, 10*time.Millisecond)
	runtime.KeepAlive(w)
}

// An event that nobody here understands makes whoever needs its stream fail, and nobody who reads at the same time.
func TestAnUnreadableStreamIsNobodyElsesFault(t *testing.T) {
	w := newEnvironment(t)
	_, err := w.db.Exec(`INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
		VALUES ('inventory/BAD', 1, nextval('events_position'), 'inventory.from-the-future', 1, '{}', '{}', now())`)
	require.NoError(t, err)
	var all sync.WaitGroup
	for n := range 60 {
		all.Go(func() {
			sku := fmt.Sprint("SKU-", n)
			if n%3 == 0 {
				sku = "BAD"
			}
			_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), w.receiveOf(sku, 1))
			switch kind := cqrs.KindOf(err); {
			case sku == "BAD" && kind != cqrs.KindPermanent:
				t.Errorf("%s: %s %v", sku, kind, err)
			case sku != "BAD" && err != nil:
				t.Errorf("%s: %s %v", sku, kind, err)
			}
		})
	}
	all.Wait()
}

// Units that begin transactions of their own build on units that need a connection for their group. A pool of the smallest size has one for it.
func TestUnitsWithTransactionsOfTheirOwnLeaveConnectionsToGroups(t *testing.T) {
	w := newEnvironment(t)
	w.db.SetMaxOpenConns(postgres.MinConns)
	w = w.another()
	began := time.Now()
	var all sync.WaitGroup
	for n := range 100 {
		sku := fmt.Sprint("SKU-", n)
		for m := range 3 {
			all.Go(func() {
				err := w.uow.Within(t.Context(), func(ctx context.Context) error {
					err := w.receiveOf(sku, 1)(ctx)
					if m > 0 && err == nil {
						_, err = txn.FromContext(ctx)
					}
					return err
				})
				if err != nil {
					t.Error(sku, err)
				}
			})
		}
	}
	all.Wait()
	require.Less(t, time.Since(began), 5*time.Second)
	require.Equal(t, 300, w.count(t, `SELECT count(*) FROM events`))
}

// A unit that holds a stream in memory needs a lock of a unit with a transaction of its own, which needs the stream. PostgreSQL knows of the lock only.
func TestALockAndAStreamInTheOtherOrder(t *testing.T) {
	w := newEnvironment(t)
	lock := func(ctx context.Context) error {
		tx, err := txn.FromContext(ctx)
		if err == nil {
			_, err = tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(1)`)
		}
		return err
	}
	holdsStream, holdsLock := make(chan struct{}), make(chan struct{})
	var first, second sync.Once
	began := time.Now()
	var both sync.WaitGroup
	both.Go(func() {
		require.NoError(t, w.uow.Within(t.Context(), func(ctx context.Context) error {
			err := w.receive(ctx)
			first.Do(func() { close(holdsStream); <-holdsLock })
			return errors.Join(err, lock(ctx))
		}))
	})
	both.Go(func() {
		<-holdsStream
		require.NoError(t, w.uow.Within(t.Context(), func(ctx context.Context) error {
			err := lock(ctx)
			second.Do(func() { close(holdsLock) })
			return errors.Join(err, w.receive(ctx))
		}))
	})
	both.Wait()
	require.Less(t, time.Since(began), 2*time.Second)
	require.Equal(t, int64(2), w.onHand(t))
}
