package eventstore_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/eventstore"
)

// stock counts, with a state of type S. Count is how the state of each type counts.
type stock[S any] struct {
	aggregate.Root[counted]
	state S
	count func(*S, int)
}

func (s *stock[S]) State() any                 { return &s.state }
func (s *stock[S]) apply(e counted)            { s.count(&s.state, e.By) }
func (s *stock[S]) Continue(history []counted) { s.Replay(s.apply, history) }

func stocks[S any](store *eventstore.Store, o eventstore.Options, count func(*S, int)) *eventstore.Repository[*stock[S], counted] {
	return eventstore.NewRepository(store, "stocks", func(history []counted) *stock[S] {
		s := &stock[S]{count: count}
		s.Replay(s.apply, history)
		return s
	}, o)
}

// Program after program works on one stock: in each the state has another shape, or counts otherwise. None takes over a snapshot of
// another one, and each makes its own.
func TestSnapshotOfAnotherSchemaIsIgnored(t *testing.T) {
	db, _ := kittest.Database(t)
	ctx := t.Context()
	type (
		first   struct{ InStock int }
		renamed struct {
			OnHand int `json:"on_hand"`
		}
		retyped struct {
			OnHand string `json:"on_hand"`
		}
		line   struct{ Count int }
		nested struct{ Lines map[string]line }
		deeper struct{ Lines map[string]*line2 }
	)
	schemas := map[string]bool{}
	stored := 0
	check := func(update func(*eventstore.Store) error, counted func(*eventstore.Store) (int, error)) {
		t.Helper()
		n, err := counted(eventstore.New(db, types))
		if stored > 0 {
			require.NoError(t, err)
		}
		require.Equal(t, stored, n, "the first load of this program")
		for range 12 {
			require.NoError(t, update(eventstore.New(db, types)))
			stored++
		}
		n, err = counted(eventstore.New(db, types))
		require.NoError(t, err)
		require.Equal(t, stored, n)
		var snapshot struct {
			Version int
			Schema  string
		}
		require.NoError(t, db.Get(&snapshot, `SELECT version, schema FROM snapshots WHERE stream = 'stocks/a'`))
		require.Greater(t, snapshot.Version, stored-10, "it was created again")
		schemas[snapshot.Schema] = true
	}
	program(t, ctx, db, eventstore.Options{}, func(s *first, by int) { s.InStock += by }, func(s first) int { return s.InStock }, check)
	program(t, ctx, db, eventstore.Options{}, func(s *renamed, by int) { s.OnHand += by }, func(s renamed) int { return s.OnHand }, check)
	program(t, ctx, db, eventstore.Options{}, func(s *retyped, by int) { s.OnHand += "xxxx"[:by] }, func(s retyped) int { return len(s.OnHand) }, check)
	program(t, ctx, db, eventstore.Options{}, func(s *nested, by int) {
		if s.Lines == nil {
			s.Lines = map[string]line{}
		}
		s.Lines["x"] = line{s.Lines["x"].Count + by}
	}, func(s nested) int { return s.Lines["x"].Count }, check)
	program(t, ctx, db, eventstore.Options{}, func(s *deeper, by int) {
		if s.Lines == nil {
			s.Lines = map[string]*line2{"x": {}}
		}
		s.Lines["x"].N += by
	}, func(s deeper) int {
		if s.Lines == nil {
			return 0
		}
		return s.Lines["x"].N
	}, check)
	program(t, ctx, db, eventstore.Options{SnapshotVersion: 2}, func(s *first, by int) { s.InStock -= by }, func(s first) int { return -s.InStock }, check)
	require.Len(t, schemas, 6)
}

type line2 struct{ N int }

// A snapshot that was made before snapshots had a schema is ignored.
func TestSnapshotWithoutASchemaIsIgnored(t *testing.T) {
	db, _ := kittest.Database(t)
	store := eventstore.New(db, types)
	require.NoError(t, add(t.Context(), db, store, event("counters/a", 1, 3)))
	_, err := db.Exec(`INSERT INTO snapshots (stream, version, state) VALUES ('counters/a', 1, '77')`)
	require.NoError(t, err)
	c, err := eventstore.NewRepository(store, "counters", rebuild, eventstore.Options{SnapshotEvery: 10}).Load(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, 3, c.n)
}

// A state that JSON does not keep whole would come back with zeros. It is refused when the service starts.
func TestStateThatJSONLosesIsRefused(t *testing.T) {
	store := eventstore.New(nil, types)
	every := eventstore.Options{SnapshotEvery: 10}
	require.PanicsWithValue(t, "eventstore: counters: *eventstore_test.hidden cannot have snapshots: JSON does not keep the unexported field secret of eventstore_test.inner", func() {
		eventstore.NewRepository(store, "counters", func([]counted) *hidden { return &hidden{} }, every)
	})
	for name, f := range map[string]func(){
		"nested":     func() { stocks(store, every, func(*struct{ A map[string][]inner }, int) {}) },
		"an any":     func() { stocks(store, every, func(*struct{ A any }, int) {}) },
		"a function": func() { stocks(store, every, func(*struct{ A func() }, int) {}) },
		"no state": func() {
			eventstore.NewRepository(store, "plain", func([]counted) *plain { return &plain{} }, every)
		},
	} {
		t.Run(name, func(t *testing.T) { require.Panics(t, f) })
	}
	require.NotPanics(t, func() {
		type node struct {
			At       time.Time
			Raw      json.RawMessage
			Children []*node2
			N        [2]int
		}
		stocks(store, every, func(*node, int) {})
	})
}

type node2 struct{ Children map[int]*node2 }

type inner struct{ secret int } //nolint:unused // that is the point

type hidden struct {
	counter
	state inner
}

func (h *hidden) State() any { return &h.state }

type plain struct{ aggregate.Root[counted] }

// The database refuses an event without the one before it, whatever statement it comes by.
func TestDatabaseRefusesAGapInAStream(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	require.NoError(t, add(ctx, db, store, event("counters/a", 1, 1), event("counters/b", 1, 1), event("counters/a", 2, 1), event("counters/a", 3, 1)))
	for name, versions := range map[string][]int{"one too far": {5}, "a gap inside": {4, 6}, "first": {0}, "below": {-1}} {
		t.Run(name, func(t *testing.T) {
			var events []cqrs.Event
			for _, v := range versions {
				events = append(events, event("counters/a", v, 1))
			}
			err := add(ctx, db, store, append(events, event("counters/c", 1, 1))...)
			require.ErrorContains(t, err, "of stream counters/a cannot be appended")
			require.Equal(t, cqrs.KindConflict, cqrs.KindOf(err), "what the unit has read is not what is stored: it runs again")
		})
	}
	_, err := db.Exec(`INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
		VALUES ('counters/n', 2, nextval('events_position'), 'counted', 1, '{}', '{}', now())`)
	require.ErrorContains(t, err, "version 2 of stream counters/n cannot be appended: version 1 does not exist")
	var n int
	require.NoError(t, db.Get(&n, `SELECT count(*) FROM events`))
	require.Equal(t, 4, n)
}

// A stream with a gap, from before the database refused one, is an error for the unit that reads it, and for no other.
func TestLoadRefusesAGapInAStream(t *testing.T) {
	db, _ := kittest.Database(t)
	store, ctx := eventstore.New(db, types), t.Context()
	require.NoError(t, add(ctx, db, store, event("counters/a", 1, 1), event("counters/a", 2, 1), event("counters/a", 3, 1), event("counters/b", 1, 1)))
	_, err := db.Exec(`DELETE FROM events WHERE stream = 'counters/a' AND version = 2`)
	require.NoError(t, err)
	counters := eventstore.NewRepository(store, "counters", rebuild, eventstore.Options{})
	reading := map[string]func(id string) error{
		"load":      func(id string) error { _, err := counters.Load(ctx, id); return err },
		"history":   func(id string) error { _, err := store.History(ctx, "counters", id); return err },
		"histories": func(id string) error { _, err := store.Histories(ctx, "counters", []string{"b", id}); return err },
		"unit of work": func(id string) error {
			return unit(ctx, db, store, func(ctx context.Context) error {
				return counters.Update(ctx, id, func(*counter) error { return nil })
			})
		},
	}
	for name, read := range reading {
		t.Run(name, func(t *testing.T) {
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					if err := read("b"); err != nil {
						t.Error(err)
					}
				})
			}
			err := read("a")
			require.ErrorContains(t, err, "stream counters/a has a gap: expected version 2, found 3")
			require.Equal(t, cqrs.KindPermanent, cqrs.KindOf(err), "a dead letter: it would fail for ever")
			all.Wait()
		})
	}
}

// program is one version of a program: stocks whose state is an S. Check gets how it adds one and how it counts.
func program[S any](t *testing.T, ctx context.Context, db *sqlx.DB, o eventstore.Options, count func(*S, int), number func(S) int,
	check func(update func(*eventstore.Store) error, counted func(*eventstore.Store) (int, error)),
) {
	t.Helper()
	o.SnapshotEvery = 10
	check(func(store *eventstore.Store) error {
		return unit(ctx, db, store, func(ctx context.Context) error {
			return stocks(store, o, count).Update(ctx, "a", func(s *stock[S]) error { s.Record(s.apply, counted{1}); return nil })
		})
	}, func(store *eventstore.Store) (int, error) {
		s, err := stocks(store, o, count).Load(ctx, "a")
		return number(s.state), err
	})
}
