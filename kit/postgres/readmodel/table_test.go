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

var tables = fstest.MapFS{"00001_books.sql": {Data: []byte(`-- +goose Up
CREATE TABLE books (book_id text PRIMARY KEY, title text NOT NULL, pages integer NOT NULL, price double precision NOT NULL, lent boolean NOT NULL,
	bought_at timestamptz NOT NULL, tags json NOT NULL, reader text NOT NULL DEFAULT '', version integer NOT NULL);
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
	Version  int
}

type lending struct {
	BookID, Reader string
	Lent           bool
	Version        int32
}

type shelf struct {
	ShelfID      string
	Books, Pages int64
	Version      int
}

var (
	insertBook = readmodel.Insert[book]("books", "book_id")
	upsertBook = readmodel.Upsert[book]("books", "book_id")
	lendBook   = readmodel.Update[lending]("books", "book_id")
	addBooks   = readmodel.Add[shelf]("shelves", "shelf_id")
)

// write commits rows as one unit of work.
func write[R any](t *testing.T, db *sqlx.DB, s *txn.Statement[R], rows ...R) error {
	t.Helper()
	ctx, unit := txn.NewUnit(context.Background(), db)
	for _, row := range rows {
		require.NoError(t, s.Write(ctx, row))
	}
	return txn.Commit(ctx, db, []*txn.Unit{unit})
}

func bookOf(t *testing.T, db *sqlx.DB, id string) (out struct {
	book
	Reader string
}) {
	t.Helper()
	out, err := readmodel.Get[struct {
		book
		Reader string
	}](t.Context(), db, "book "+id, `SELECT * FROM books WHERE book_id = $1`, id)
	require.NoError(t, err)
	out.BoughtAt = out.BoughtAt.UTC()
	return out
}

func moby(version int) book {
	return book{
		ID: "b1", Title: "Moby Dick", Pages: 600 + version, Price: 9.5, Lent: version%2 == 0, BoughtAt: time.Unix(int64(version), 0).UTC(),
		Tags: readmodel.JSON[[]string]{V: []string{"sea", "whale"}}, Version: version,
	}
}

func TestInsertKeepsTheRowThatIsThere(t *testing.T) {
	db, _ := kittest.Database(t, tables)
	other := moby(1)
	other.ID = "b2"
	require.NoError(t, write(t, db, insertBook, moby(1), moby(2), other))
	require.NoError(t, write(t, db, insertBook, moby(3)))
	require.Equal(t, moby(1), bookOf(t, db, "b1").book)
	require.Equal(t, other, bookOf(t, db, "b2").book)
}

func TestUpsertKeepsTheNewestVersion(t *testing.T) {
	db, _ := kittest.Database(t, tables)
	require.NoError(t, write(t, db, upsertBook, moby(2), moby(3), moby(1)))
	require.Equal(t, moby(3), bookOf(t, db, "b1").book)
	require.NoError(t, write(t, db, upsertBook, moby(2)))
	require.Equal(t, moby(3), bookOf(t, db, "b1").book, "an older version")
	require.NoError(t, write(t, db, upsertBook, moby(4)))
	require.Equal(t, moby(4), bookOf(t, db, "b1").book)
}

func TestUpdateChangesItsColumnsOnly(t *testing.T) {
	db, _ := kittest.Database(t, tables)
	require.NoError(t, write(t, db, insertBook, moby(1)))
	require.NoError(t, write(t, db, lendBook, lending{"b1", "ada", true, 2}, lending{"b1", "bob", true, 3}))
	got := bookOf(t, db, "b1")
	require.Equal(t, "bob", got.Reader, "the newest version")
	require.Equal(t, title("Moby Dick"), got.Title)
	require.Equal(t, 3, got.Version)
	require.NoError(t, write(t, db, lendBook, lending{"b1", "cyd", true, 3}))
	require.Equal(t, "bob", bookOf(t, db, "b1").Reader, "a version that was written before")
	require.ErrorContains(t, write(t, db, lendBook, lending{"b9", "ada", true, 2}), "there is no row b9 in books")
}

func TestAddCountsEachEventOnce(t *testing.T) {
	db, _ := kittest.Database(t, tables)
	get := func(id string) shelf {
		s, err := readmodel.Get[shelf](t.Context(), db, "shelf "+id, `SELECT * FROM shelves WHERE shelf_id = $1`, id)
		require.NoError(t, err)
		return s
	}
	require.NoError(t, write(t, db, addBooks, shelf{"s1", 1, 100, 1}, shelf{"s1", 2, 50, 2}, shelf{"s2", 5, 5, 1}, shelf{"s1", 2, 50, 2}))
	require.NoError(t, write(t, db, addBooks, shelf{"s1", 2, 50, 2}, shelf{"s1", -1, -10, 3}))
	require.Equal(t, shelf{"s1", 2, 140, 3}, get("s1"))
	require.Equal(t, shelf{"s2", 5, 5, 1}, get("s2"))
	require.ErrorContains(t, write(t, db, addBooks, shelf{"s1", 1, 1, 5}), "row s1 of shelves: event 5 came after event 3")

	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for version := 1; version <= 20; version++ {
				for {
					err := write(t, db, addBooks, shelf{"s3", 1, 1, version})
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
	require.Equal(t, shelf{"s3", 20, 20, 20}, get("s3"))
}

func TestGetSaysWhatIsNotThere(t *testing.T) {
	db, _ := kittest.Database(t, tables)
	_, err := readmodel.Get[shelf](t.Context(), db, "shelf s1", `SELECT * FROM shelves`)
	require.ErrorIs(t, err, cqrs.ErrNotFound)
	require.ErrorContains(t, err, "shelf s1")
	_, err = readmodel.Select[shelf](t.Context(), db, "shelves", `SELECT * FROM nowhere`)
	require.ErrorContains(t, err, "read shelves")
}

func TestRowsMustHaveColumns(t *testing.T) {
	require.PanicsWithValue(t, "read model x: the field Of has the type map[string]int, which no column has", func() {
		readmodel.Upsert[struct {
			ID      string
			Of      map[string]int
			Version int
		}]("x", "id")
	})
	require.PanicsWithValue(t, "read model x: struct { ID string } needs the fields id and version", func() {
		readmodel.Insert[struct{ ID string }]("x", "id")
	})
}
