package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// item is a row of a table that units write beside their events.
type item struct {
	key     string
	n       int
	seconds float64 // that the statement takes
	panics  bool
}

var items = &txn.Statement[item]{
	Doing: "write items", Rank: 30, Locks: func(i item) string { return i.key },
	Query: func(rows []item) (string, []any, error) {
		keys, ns, seconds := make([]string, len(rows)), make([]int32, len(rows)), 0.0
		for i, r := range rows {
			if r.panics {
				panic("an item that panics")
			}
			keys[i], ns[i], seconds = r.key, int32(r.n), max(seconds, r.seconds)
		}
		return `INSERT INTO items (key, n) SELECT key, n FROM unnest($1::text[], $2::int[]) AS i(key, n), pg_sleep($3)
			ON CONFLICT (key) DO UPDATE SET n = items.n + excluded.n`, []any{keys, ns, seconds}, nil
	},
}

func (w *environment) withItems(t *testing.T) *environment {
	t.Helper()
	_, err := w.db.Exec(`CREATE TABLE items (key text PRIMARY KEY, n int NOT NULL CHECK (n < 1000)); INSERT INTO items VALUES ('locked', 0)`)
	require.NoError(t, err)
	return w
}

// writeItem handles a message with an event of a stream of its own and an item.
func (w *environment) writeItem(ctx context.Context, id string, i item) error {
	_, err := w.uow.Handle(ctx, command(id, "", ""), func(ctx context.Context) error {
		return errors.Join(w.receiveOf(id, 1)(ctx), items.Write(ctx, i))
	})
	return err
}

// locked begins a transaction that holds a lock until the test ends.
func (w *environment) locked(t *testing.T, statement string) *sqlx.Tx {
	t.Helper()
	tx, err := w.db.BeginTxx(context.Background(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	_, err = tx.Exec(statement)
	require.NoError(t, err)
	return tx
}

// Of fifty units that commit in one transaction, one is bad: the others are committed, and the caller of the bad one gets an error. A locked
// row stalled every commit for 5 s, and then failed 49 of 50 units.
func TestCommitGroupIsolatesABadUnit(t *testing.T) {
	t.Parallel()
	texts := badText()
	cases := map[string]struct {
		lock string
		bad  func(ctx context.Context, w *environment) error
		want cqrs.Kind
	}{
		"hostile bytes": {"", func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: texts["hostile bytes"]})
		}, cqrs.KindPermanent},
		"NUL": {"", func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: texts["NUL"]})
		}, cqrs.KindPermanent},
		"too large": {"", func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: texts["too large"]})
		}, cqrs.KindPermanent},
		"constraint": {"", func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: "bad", n: 1000})
		}, cqrs.KindPermanent},
		"panicking": {"", func(ctx context.Context, w *environment) error { return w.writeItem(ctx, "bad", item{panics: true}) }, cqrs.KindPermanent},
		"slow": {"", func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: "bad", seconds: 60})
		}, cqrs.KindTransient},
		"cancelled": {"", func(ctx context.Context, w *environment) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			_, err := w.uow.Handle(ctx, command("bad", "", ""), func(ctx context.Context) error {
				err := items.Write(ctx, item{key: "bad"})
				cancel()
				return err
			})
			return err
		}, cqrs.KindShuttingDown},
		"locked row": {`SELECT FROM items WHERE key = 'locked' FOR UPDATE`, func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: "locked", n: 1})
		}, cqrs.KindTransient},
		"locked inbox row": {`INSERT INTO inbox (consumer, message_id, outcome) VALUES ('c', 'bad', 'done')`, func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: "bad", n: 1})
		}, cqrs.KindTransient},
		"locked stream": {`INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
			VALUES ('inventory/bad', 1, nextval('events_position'), 'inventory.received', 1, '{"sku":"bad","quantity":1}', '{}', now())`, func(ctx context.Context, w *environment) error {
			return w.writeItem(ctx, "bad", item{key: "bad", n: 1})
		}, cqrs.KindTransient},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newEnvironment(t).withItems(t)
			if c.lock != "" {
				w.locked(t, c.lock)
			}
			var bad, good sync.WaitGroup
			var err error
			begin := make(chan struct{})
			bad.Go(func() {
				<-begin
				err = c.bad(context.Background(), w)
			})
			for n := range 49 {
				good.Go(func() {
					<-begin
					for round := range 3 {
						id := fmt.Sprintf("good-%d-%d", n, round)
						if err := w.writeItem(t.Context(), id, item{key: id, n: 1}); err != nil {
							t.Errorf("%s: %v", id, err)
						}
					}
				})
			}
			close(begin)
			good.Wait()
			bad.Wait() // it waits for a lock that is held until the test ends
			require.Error(t, err)
			require.Equal(t, c.want, cqrs.KindOf(err), "%v", err)
			require.Equal(t, 3*49, w.count(t, `SELECT count(*) FROM inbox`))
			require.Equal(t, 3*49, w.count(t, `SELECT count(*) FROM events`))
			require.Equal(t, 3*49, w.count(t, `SELECT count(*) FROM items WHERE key <> 'locked'`))
		})
	}
}

// A unit that waits for a lock succeeds when the lock is released, and what follows it in its stream too, in order and once.
func TestCommitAfterALockIsReleased(t *testing.T) {
	w := newEnvironment(t).withItems(t)
	lock := w.locked(t, `SELECT FROM items WHERE key = 'locked' FOR UPDATE`)
	var handling sync.WaitGroup
	for n := range 20 {
		handling.Go(func() {
			_, err := w.uow.Handle(t.Context(), command(fmt.Sprint("m-", n), "", ""), func(ctx context.Context) error {
				key := "free"
				if n%2 == 0 {
					key = "locked"
				}
				return errors.Join(w.receive(ctx), items.Write(ctx, item{key: key, n: 1}))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return w.count(t, `SELECT count(*) FROM inbox`) == 10 }, 4*time.Second, 10*time.Millisecond,
		"a unit of the same stream that does not need the locked row does not wait for it")
	require.NoError(t, lock.Commit())
	handling.Wait()
	require.Equal(t, 20, w.count(t, `SELECT count(*) FROM events`))
	require.Equal(t, int64(20), w.onHand(t))
	require.Equal(t, 10, w.count(t, `SELECT n FROM items WHERE key = 'locked'`))
}

// While a table is locked, units that write it wait apart, in memory or with few connections; units that do not write it go on.
func TestCommitWhileATableIsLocked(t *testing.T) {
	w := newEnvironment(t).withItems(t)
	lock := w.locked(t, `LOCK TABLE items IN ACCESS EXCLUSIVE MODE`)
	var writing, others sync.WaitGroup
	for n := range 100 {
		writing.Go(func() {
			id := fmt.Sprint("writes-", n)
			if err := w.writeItem(t.Context(), id, item{key: id, n: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	for n := range 100 {
		others.Go(func() {
			if _, err := w.uow.Handle(t.Context(), command(fmt.Sprint("other-", n), "", ""), w.receiveOf(fmt.Sprint("other-", n), 1)); err != nil {
				t.Error(err)
			}
		})
	}
	others.Wait()
	require.Equal(t, 100, w.count(t, `SELECT count(*) FROM inbox`))
	require.NoError(t, lock.Commit())
	writing.Wait()
	require.Equal(t, 101, w.count(t, `SELECT count(*) FROM items`))
}

// With the smallest pool that a service accepts, units that hold transactions of their own or wait for locks leave connections to the others.
func TestSmallestPoolIsNotUsedUpByUnitsThatWaitForLocks(t *testing.T) {
	_, dsn := kittest.Database(t)
	db, err := postgres.Open(dsn, postgres.MinConns-1) // one is the lock's
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	other, err := postgres.Open(dsn, 1)
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close() })
	w := (&environment{db: db}).another().withItems(t)
	keys := postgres.NewIdempotency(db)
	lock := (&environment{db: other}).locked(t, `SELECT FROM items WHERE key = 'locked' FOR UPDATE`)
	var waiting, good sync.WaitGroup
	for n := range 20 {
		waiting.Go(func() {
			err := w.uow.Within(t.Context(), func(ctx context.Context) error {
				if n%2 == 0 { // has a transaction of its own, and asks for a key
					if _, err := txn.FromContext(ctx); err != nil {
						return err
					}
				}
				key := cqrs.IdempotencyKey{Owner: "customer", Scope: "POST /", Key: fmt.Sprint("waits-", n)}
				if _, err := keys.Find(ctx, key, []byte("hash")); err != nil {
					return err
				}
				err := keys.Keep(ctx, key, []byte("hash"), cqrs.StoredResponse{Status: 202, Body: []byte("null")})
				return errors.Join(err, items.Write(ctx, item{key: "locked", n: 1}))
			})
			if err != nil {
				t.Errorf("waits-%d: %v", n, err)
			}
		})
	}
	for n := range 50 {
		good.Go(func() {
			id := fmt.Sprint("good-", n)
			if err := w.writeItem(t.Context(), id, item{key: id, n: 1}); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	good.Wait()
	require.NoError(t, lock.Commit())
	waiting.Wait()
	require.Equal(t, 20, w.count(t, `SELECT n FROM items WHERE key = 'locked'`))
}

// A stream that many instances want is locked by an instance that hangs: units of other such streams go on, those of a stream too that is
// changed together with the locked one.
func TestCommitGroupIsolatesAContendedStream(t *testing.T) {
	w := newEnvironment(t)
	store := eventstore.New(w.db, inventory.Types)
	w.stock = eventstore.NewRepository(store, inventory.Category, inventory.Rebuild, eventstore.Options{Contended: true})
	w.uow = postgres.NewUnitOfWork(w.db, store, w.bus, time.Now)
	both := func(ctx context.Context) error {
		return w.stock.UpdateAll(ctx, []string{"bad", "shared"}, func(s []*inventory.Stock) error {
			return errors.Join(s[0].Receive("bad", 1), s[1].Receive("shared", 1))
		})
	}
	lock := w.locked(t, `SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' inventory/bad', 0))`)
	var good, bad sync.WaitGroup
	var ended atomic.Int32
	for n := range 5 {
		bad.Go(func() {
			if _, err := w.uow.Handle(t.Context(), command(fmt.Sprint("bad-", n), "", ""), both); err != nil {
				t.Errorf("bad-%d: %v", n, err)
			}
			ended.Add(1)
		})
	}
	for n := range 45 {
		good.Go(func() {
			for round := range 3 {
				id, sku := fmt.Sprintf("good-%d-%d", n, round), fmt.Sprint("SKU-", n)
				if n%5 == 0 {
					sku = "shared" // a unit that waits for the lock must not keep this stream from others
				}
				if _, err := w.uow.Handle(t.Context(), command(id, "", ""), w.receiveOf(sku, 1)); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	good.Wait()
	require.Zero(t, ended.Load(), "the others end while the lock is held")
	require.NoError(t, lock.Commit())
	bad.Wait()
	require.Equal(t, 3*45+2*5, w.count(t, `SELECT count(*) FROM events`))
	s, err := w.stock.Load(t.Context(), "bad")
	require.NoError(t, err)
	require.Equal(t, int64(5), s.OnHand())
}

// A commit group, a unit that locks streams in its own transaction, and the migrations limit their waits for locks. Afterwards the connection
// has the lock_timeout of the pool again: with the server's, which is none, a statement without a limit of its own waits for ever.
func TestLockTimeoutOfTheConnectionIsRestored(t *testing.T) {
	_, dsn := kittest.Database(t)
	db, err := postgres.Open(dsn, 1)
	require.NoError(t, err)
	defer db.Close()
	timeout := func() (is string) {
		require.NoError(t, db.Get(&is, `SHOW lock_timeout`))
		return is
	}
	require.Equal(t, "5s", timeout())

	w := (&environment{db: db}).another()
	require.NoError(t, w.uow.Within(t.Context(), w.receive))
	require.Equal(t, "5s", timeout(), "after a commit group")

	w.stock = eventstore.NewRepository(w.store, inventory.Category, inventory.Rebuild, eventstore.Options{Contended: true})
	require.NoError(t, w.uow.Within(t.Context(), func(ctx context.Context) error {
		tx, err := txn.FromContext(ctx)
		require.NoError(t, err)
		require.NoError(t, w.receive(ctx))
		var is string
		require.NoError(t, tx.Get(&is, `SHOW lock_timeout`))
		require.Equal(t, "5s", is, "in a transaction that has locked streams")
		return nil
	}))
	require.Equal(t, "5s", timeout())
}

func TestLockTimeoutAfterMigrations(t *testing.T) {
	db, _ := kittest.Database(t)
	db.SetMaxOpenConns(2)
	require.NoError(t, migrations.New(nil).Up(t.Context(), db.DB))
	for range 2 {
		conn, err := db.Connx(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		var is string
		require.NoError(t, conn.GetContext(t.Context(), &is, `SHOW lock_timeout`))
		require.Equal(t, "5s", is)
	}
}
