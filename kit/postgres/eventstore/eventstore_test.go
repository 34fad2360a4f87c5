package eventstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// counter is an aggregate of the tests' own: it counts, and has snapshots.
type counter struct {
	aggregate.Root[counted]
	n int
}

type counted struct {
	By int `json:"by"`
}

func rebuild(history []counted) *counter {
	c := &counter{}
	c.Replay(c.apply, history)
	return c
}

func (c *counter) apply(e counted)            { c.n += e.By }
func (c *counter) add(by int)                 { c.Record(c.apply, counted{by}) }
func (c *counter) State() any                 { return &c.n }
func (c *counter) Continue(history []counted) { c.Replay(c.apply, history) }

// moved has had a unit since version 2; before, everything was in metres.
type moved struct {
	By   int
	Unit string
}

var types = aggregate.TypesOf(aggregate.NewType[counted]("counted"), aggregate.NewType[moved]("moved", func(fields map[string]any) error {
	fields["Unit"] = "m"
	return nil
}))

func event(stream string, version, by int) cqrs.Event {
	return cqrs.Event{Body: counted{by}, Meta: cqrs.Meta{ID: uuid.NewString(), Subject: stream, Version: version, Time: time.Now()}}
}

// unit does work and commits it, as the unit of work does.
func unit(ctx context.Context, db *sqlx.DB, store *eventstore.Store, work func(context.Context) error) error {
	inner, u := txn.NewUnit(ctx, db)
	defer u.Close()
	session := store.NewSession(u, time.Now)
	inner = eventstore.WithSession(inner, session)
	defer session.Release()
	if err := work(inner); err != nil {
		return err
	}
	if _, err := session.Flush(inner); err != nil {
		return err
	}
	if err := session.Seal(inner); err != nil {
		return err
	}
	err := txn.Commit(ctx, db, []*txn.Unit{u})
	if err == nil {
		session.Committed()
		u.Committed()
	}
	return err
}

// add appends events in a unit of its own.
func add(ctx context.Context, db *sqlx.DB, store *eventstore.Store, events ...cqrs.Event) error {
	return unit(ctx, db, store, func(ctx context.Context) error { return store.Append(ctx, events) })
}

// insert appends an event in a transaction that stays open, by the statement that Append uses.
func insert(ctx context.Context, tx *sqlx.Tx, stream string, version int) error {
	query, args, err := eventstore.Insert(event(stream, version, 1))
	if err == nil {
		_, err = tx.ExecContext(ctx, query, args...)
	}
	return err
}

func TestAppendTellsAConflictApart(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	require.NoError(t, add(ctx, db, store, event("counters/a", 1, 1), event("counters/a", 2, 2), event("counters/b", 1, 3)))
	err := add(ctx, db, store, event("counters/a", 3, 1), event("counters/b", 1, 1))
	require.ErrorIs(t, err, cqrs.ErrConflict)
	require.Equal(t, cqrs.KindConflict, cqrs.KindOf(err))
	history, err := store.History(ctx, "counters", "a")
	require.NoError(t, err)
	require.Len(t, history, 2, "all or nothing")
	_, err = store.History(ctx, "counters", "c")
	require.ErrorIs(t, err, cqrs.ErrNotFound)
	require.ErrorIs(t, add(ctx, db, store, cqrs.Event{Body: struct{}{}}), aggregate.ErrUnknownType)
}

func TestMetadataIsKept(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	e := event("counters/a", 1, 7)
	e.Meta.Time = time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC)
	e.Meta.Correlation, e.Meta.Causation, e.Meta.SagaID, e.Meta.SagaStep, e.Meta.Branch = "corr", "cause", "saga", "a step", cqrs.BranchCompensation
	e.Meta.Trace = map[string]string{"traceparent": "00-x-y-01"}
	require.NoError(t, add(ctx, db, store, e))
	history, err := store.History(ctx, "counters", "a")
	require.NoError(t, err)
	want := e
	want.Category, want.Key, want.Position, want.Meta.Type, want.Meta.Schema = "counters", "a", 1, "counted", 1
	require.Equal(t, []cqrs.Event{want}, history)
}

func TestOldSchemaIsUpcastedWhenRead(t *testing.T) {
	db, _ := kittest.Database(t)
	store := eventstore.New(db, types)
	const v1 = `{"By":5}`
	_, err := db.Exec(`INSERT INTO events (position, stream, version, type, schema, payload, meta, at) VALUES (1, 'moves/o', 1, 'moved', 1, $1, '{}', now())`, v1)
	require.NoError(t, err)
	history, err := store.History(t.Context(), "moves", "o")
	require.NoError(t, err)
	require.Equal(t, moved{By: 5, Unit: "m"}, history[0].Body)
	var stored string
	require.NoError(t, db.Get(&stored, `SELECT payload FROM events`))
	require.Equal(t, v1, stored, "stored events are never changed")
}

// Whatever the snapshots, an aggregate is the fold of its events.
func TestSnapshots(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	counters := eventstore.NewRepository(store, "counters", rebuild, eventstore.Options{SnapshotEvery: 10})
	total := 0
	for range 40 {
		require.NoError(t, unit(ctx, db, store, func(ctx context.Context) error {
			return counters.Update(ctx, "a", func(c *counter) error {
				for range 1 + rand.IntN(4) {
					c.add(1)
					total++
				}
				return nil
			})
		}))
		c, err := counters.Load(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, total, c.n)
		require.Equal(t, total, c.Version())
	}
	var version int
	require.NoError(t, db.Get(&version, `SELECT version FROM snapshots WHERE stream = 'counters/a'`))
	require.GreaterOrEqual(t, version, total-13)
	_, err := db.Exec(`DELETE FROM snapshots`)
	require.NoError(t, err)
	c, err := counters.Load(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, total, c.n, "snapshots may be deleted at any time")
}

// Units that want the same aggregates, in any order, queue up: none of them conflicts, none deadlocks.
func TestContendedAggregatesQueueUp(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	counters := eventstore.NewRepository(store, "counters", rebuild, eventstore.Options{Contended: true})
	ids := []string{"a", "b", "c", "d"}
	var writers sync.WaitGroup
	failures := make(chan error, 40)
	for range 40 {
		writers.Go(func() {
			wanted := append([]string{}, ids...)
			rand.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
			failures <- unit(ctx, db, store, func(ctx context.Context) error {
				return counters.UpdateAll(ctx, wanted[:3], func(all []*counter) error {
					for _, c := range all {
						c.add(1)
					}
					return nil
				})
			})
		})
	}
	writers.Wait()
	for range 40 {
		require.NoError(t, <-failures)
	}
	sum := 0
	for _, id := range ids {
		c, err := counters.Load(ctx, id)
		require.NoError(t, err)
		sum += c.n
	}
	require.Equal(t, 120, sum)
}

func TestOneUnitSeesItsOwnChanges(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	counters := eventstore.NewRepository(store, "counters", rebuild, eventstore.Options{})
	increment := func(ctx context.Context) error {
		return counters.Update(ctx, "a", func(c *counter) error { c.add(1); return nil })
	}
	require.NoError(t, unit(ctx, db, store, func(ctx context.Context) error {
		require.NoError(t, increment(ctx))
		require.NoError(t, increment(ctx))
		require.NoError(t, store.Record(ctx, "counters", "b", 0, []any{counted{1}, counted{2}}))
		history, err := store.History(ctx, "counters", "b")
		require.NoError(t, err)
		require.Len(t, history, 2)
		return nil
	}))
	c, err := counters.Load(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, 2, c.Version())
	require.ErrorContains(t, increment(ctx), "outside a unit of work")
}

// A lower position that commits late is not missed: who reads waits for who holds one, and for nobody else.
func TestReaderWaitsForALateCommit(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	idle, err := db.BeginTxx(ctx, nil) // a long transaction that appends nothing
	require.NoError(t, err)
	defer idle.Rollback() // it only has to be there
	_, err = idle.Exec(`INSERT INTO snapshots VALUES ('x', 1, '{}')`)
	require.NoError(t, err)

	late, err := db.BeginTxx(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, insert(ctx, late, "counters/late", 1))
	require.NoError(t, add(ctx, db, store, event("counters/early", 1, 1)))

	reader := store.Read(0)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err = reader.Next(short, 10)
	require.ErrorIs(t, err, context.DeadlineExceeded, "it waits")
	require.NoError(t, late.Commit())
	events, err := reader.Next(ctx, 10)
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.Equal(t, "counters/late", events[0].Meta.Subject)
	require.Equal(t, "counters/early", events[1].Meta.Subject)
	events, err = reader.Next(ctx, 10)
	require.NoError(t, err)
	require.Empty(t, events)
}

// A rolled-back transaction leaves a gap where the reader has been told to end: it does not take that for the end.
func TestReaderGoesOnBehindAGap(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	put := func(stream string, end func(tx *sqlx.Tx) error) {
		tx, err := db.BeginTxx(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, insert(ctx, tx, stream, 1))
		require.NoError(t, end(tx))
	}
	put("counters/a", (*sqlx.Tx).Commit)
	put("counters/b", (*sqlx.Tx).Rollback)
	reader := store.Read(0)
	events, err := reader.Next(ctx, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)
	put("counters/c", (*sqlx.Tx).Commit)
	events, err = reader.Next(ctx, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, "counters/c", events[0].Meta.Subject)
}

// Many writers, some of which roll back or dawdle, and a reader that pages all the while: it sees every committed event
// once, in the order of positions, and each stream in order.
func TestReaderMissesNothing(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	const writers, rounds = 8, 40
	var wg sync.WaitGroup
	committed := make([]int, writers)
	for w := range writers {
		wg.Go(func() {
			for range rounds {
				tx, err := db.BeginTxx(ctx, nil)
				if err != nil || insert(ctx, tx, fmt.Sprint("counters/", w), committed[w]+1) != nil {
					return
				}
				time.Sleep(rand.N(5 * time.Millisecond))
				if rand.IntN(4) == 0 {
					_ = tx.Rollback()
				} else if tx.Commit() == nil {
					committed[w]++
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	reader, seen, last := store.Read(0), map[string]int{}, int64(0)
	for finished := false; ; {
		events, err := reader.Next(ctx, 7)
		require.NoError(t, err)
		for _, e := range events {
			require.Greater(t, e.Position, last)
			last = e.Position
			seen[e.Meta.Subject]++
			require.Equal(t, seen[e.Meta.Subject], e.Meta.Version)
		}
		if len(events) == 0 && finished {
			break
		}
		select {
		case <-done:
			finished = true
		default:
		}
	}
	for w, n := range committed {
		require.Equal(t, n, seen[fmt.Sprint("counters/", w)])
	}
}

// A plan that PostgreSQL keeps for all calls looks events up, however few they were when it was made.
func TestExpectReadsNoWholeTable(t *testing.T) {
	db, _ := kittest.Database(t)
	db.MustExec(`INSERT INTO events (stream, version, position, type, schema, payload, meta, at) SELECT n, 1, n, 't', 1, '{}', '{}', now() FROM generate_series(1, 2000) n`)
	require.NotContains(t, kittest.LastingPlan(t, db, eventstore.ExpectQuery(), 2), "Seq Scan")
}
