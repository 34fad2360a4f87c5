package readmodel_test

import (
	"context"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func TestMain(m *testing.M) { kittest.Main(m) }

var migrations = fstest.MapFS{"00001_books.sql": {Data: []byte(`-- +goose Up
CREATE TABLE books (book_id text PRIMARY KEY, title text NOT NULL, pages integer NOT NULL, price double precision NOT NULL, lent boolean NOT NULL,
	bought_at timestamptz NOT NULL, tags json NOT NULL, labels jsonb NOT NULL, version integer NOT NULL);
CREATE TABLE shelves (shelf_id text PRIMARY KEY, books bigint NOT NULL, pages bigint NOT NULL, version integer NOT NULL);
-- +goose Down
DROP TABLE books, shelves;
`)}}

type title string

type book struct {
	ID       string `db:"book_id"`
	Title    title
	Pages    int
	Price    float64
	Lent     bool
	BoughtAt time.Time
	Tags     readmodel.JSON[[]string]
	Labels   readmodel.JSON[map[string]int]
	Version  int
}

type shelf struct {
	ShelfID      string
	Books, Pages int64
	Version      int
}

var (
	books   = readmodel.NewTable[book]("books")
	shelves = readmodel.NewTable[shelf]("shelves")
)

// unit is a unit of work that write has written to.
func unit(t *testing.T, db *sqlx.DB, write func(ctx context.Context) error) *txn.Unit {
	t.Helper()
	ctx, u := txn.NewUnit(context.Background(), db)
	require.NoError(t, write(ctx))
	return u
}

func commit(db *sqlx.DB, units ...*txn.Unit) error {
	return txn.Commit(context.Background(), db, units)
}

func putBook(t *testing.T, db *sqlx.DB, b book, columns ...string) *txn.Unit {
	t.Helper()
	return unit(t, db, func(ctx context.Context) error { return books.Put(ctx, b, columns...) })
}

func updateBook(t *testing.T, db *sqlx.DB, b book, columns ...string) *txn.Unit {
	t.Helper()
	return unit(t, db, func(ctx context.Context) error { return books.Update(ctx, b, columns...) })
}

func bookOf(t *testing.T, db *sqlx.DB, id string) book {
	t.Helper()
	out, err := readmodel.Get[book](t.Context(), db, "book "+id, `SELECT * FROM books WHERE book_id = $1`, id)
	require.NoError(t, err)
	out.BoughtAt = out.BoughtAt.UTC()
	return out
}

func moby(version int) book {
	return book{
		ID: "b1", Title: "Moby Dick", Pages: 600 + version, Price: 9.5, Lent: version%2 == 0, BoughtAt: time.Unix(int64(version), 0).UTC(),
		Tags: readmodel.JSON[[]string]{V: []string{"sea", "whale"}}, Labels: readmodel.JSON[map[string]int]{V: map[string]int{"stars": version}}, Version: version,
	}
}

func TestPutKeepsTheNewestVersion(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	other := moby(1)
	other.ID = "b2"
	require.NoError(t, commit(db, putBook(t, db, moby(2)), putBook(t, db, moby(3)), putBook(t, db, other), putBook(t, db, moby(1))))
	require.Equal(t, moby(3), bookOf(t, db, "b1"))
	require.Equal(t, other, bookOf(t, db, "b2"))
	require.NoError(t, commit(db, putBook(t, db, moby(2))))
	require.NoError(t, commit(db, putBook(t, db, moby(3))))
	require.Equal(t, moby(3), bookOf(t, db, "b1"), "an older version, and the same")
	require.NoError(t, commit(db, putBook(t, db, moby(4))))
	require.Equal(t, moby(4), bookOf(t, db, "b1"))
}

func TestPutMergesEventsOfOneCommit(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	require.NoError(t, commit(db,
		putBook(t, db, moby(1)),
		putBook(t, db, book{ID: "b1", Lent: true, Version: 2}, "lent"),
		putBook(t, db, book{ID: "b2", Title: "Emma", Version: 1}, "title"),
		putBook(t, db, book{ID: "b1", Title: "The Whale", Version: 3}, "title"),
		putBook(t, db, book{ID: "b1", Price: 1, Version: 3}, "price"),
	))
	want := moby(1)
	want.Lent, want.Title, want.Price, want.Version = true, "The Whale", 1, 3
	require.Equal(t, want, bookOf(t, db, "b1"))
	require.Equal(t, book{ID: "b2", Title: "Emma", BoughtAt: time.Unix(0, 0).UTC(), Version: 1}, bookOf(t, db, "b2"), "columns that were never written are empty")
}

func TestPutIgnoresOldEventsBesideNewOnes(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	require.NoError(t, commit(db, putBook(t, db, moby(1))))
	require.NoError(t, commit(db, putBook(t, db, book{ID: "b1", Title: "The Whale", Version: 2}, "title")))
	require.NoError(t, commit(db, putBook(t, db, moby(1)), putBook(t, db, book{ID: "b1", Pages: 9, Version: 3}, "pages")))
	got := bookOf(t, db, "b1")
	require.Equal(t, title("The Whale"), got.Title)
	require.Equal(t, []int{9, 3}, []int{got.Pages, got.Version})
}

func TestPutWritesZeroValues(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	require.NoError(t, commit(db, putBook(t, db, moby(2))))
	require.NoError(t, commit(db, putBook(t, db, book{ID: "b1", Version: 3}, "pages", "lent", "tags", "title")))
	want := moby(2)
	want.Pages, want.Lent, want.Tags.V, want.Title, want.Version = 0, false, nil, "", 3
	require.Equal(t, want, bookOf(t, db, "b1"))
}

func TestUpdateChangesItsColumnsOnly(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	require.NoError(t, commit(db, putBook(t, db, moby(1)), updateBook(t, db, book{ID: "b1", Lent: true, Version: 2}, "lent")))
	require.NoError(t, commit(db, updateBook(t, db, book{ID: "b1", Price: 3, Version: 3}, "price"), updateBook(t, db, book{ID: "b1", Price: 4, Version: 4}, "price")))
	want := moby(1)
	want.Lent, want.Price, want.Version = true, 4, 4
	require.Equal(t, want, bookOf(t, db, "b1"), "the newest version")
	require.NoError(t, commit(db, updateBook(t, db, book{ID: "b1", Price: 5, Version: 4}, "price")))
	require.Equal(t, want, bookOf(t, db, "b1"), "a version that was written before")
	require.ErrorContains(t, commit(db, updateBook(t, db, book{ID: "b9", Version: 2}, "price")), "there is no row b9 in books")
}

func TestAddCountsEachEventOnce(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	add := func(all ...shelf) error {
		return commit(db, unit(t, db, func(ctx context.Context) error {
			for _, s := range all {
				if err := shelves.Add(ctx, s); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	get := func(id string) shelf {
		s, err := readmodel.Get[shelf](t.Context(), db, "shelf "+id, `SELECT * FROM shelves WHERE shelf_id = $1`, id)
		require.NoError(t, err)
		return s
	}
	require.NoError(t, add(shelf{"s1", 1, 100, 1}, shelf{"s1", 2, 50, 2}, shelf{"s2", 5, 5, 1}, shelf{"s1", 2, 50, 2}))
	require.NoError(t, add(shelf{"s1", 2, 50, 2}, shelf{"s1", -1, -10, 3}))
	require.Equal(t, shelf{"s1", 2, 140, 3}, get("s1"))
	require.Equal(t, shelf{"s2", 5, 5, 1}, get("s2"))
	require.ErrorContains(t, add(shelf{"s1", 1, 1, 5}), "row s1 of shelves: event 5 came after event 3")
	concurrently(t, func(version int) error { return add(shelf{"s3", 1, 1, version}) })
	require.Equal(t, shelf{"s3", 20, 20, 20}, get("s3"))
}

func TestPutByTwoTransactionsKeepsTheNewestVersion(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	concurrently(t, func(version int) error { return commit(db, putBook(t, db, moby(version))) })
	require.Equal(t, moby(20), bookOf(t, db, "b1"))
}

// concurrently writes versions 1 to 20 three times at once. A conflict is retried, as units of work are.
func concurrently(t *testing.T, write func(version int) error) {
	t.Helper()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for version := 1; version <= 20; version++ {
				for {
					err := write(version)
					if err == nil {
						break
					}
					if cqrs.KindOf(err) != cqrs.KindConflict {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

func TestGetSaysWhatIsNotThere(t *testing.T) {
	db, _ := kittest.Database(t, migrations)
	_, err := readmodel.Get[shelf](t.Context(), db, "shelf s1", `SELECT * FROM shelves`)
	require.ErrorIs(t, err, cqrs.ErrNotFound)
	require.ErrorContains(t, err, "shelf s1")
	all, err := readmodel.Select[shelf](t.Context(), db, "shelves", `SELECT * FROM shelves`)
	require.NoError(t, err)
	require.NotNil(t, all, "an empty list, which JSON does not have as null")
	_, err = readmodel.Select[shelf](t.Context(), db, "shelves", `SELECT * FROM nowhere`)
	require.ErrorContains(t, err, "read shelves")
}

func TestTableRefusesUnknownColumns(t *testing.T) {
	ctx, _ := txn.NewUnit(t.Context(), nil)
	require.EqualError(t, books.Put(ctx, book{}, "tilte"), `write books: it has no column "tilte"`)
	require.PanicsWithValue(t, "read model x: the field Of has the type map[string]int, which no column has", func() {
		readmodel.NewTable[struct {
			ID      string
			Of      map[string]int
			Version int
		}]("x")
	})
	require.PanicsWithValue(t, "read model x: struct { ID string } needs its key as the first field, and the field Version", func() {
		readmodel.NewTable[struct{ ID string }]("x")
	})
	require.PanicsWithValue(t, "read model x: string is not a struct", func() { readmodel.NewTable[string]("x") })
}
