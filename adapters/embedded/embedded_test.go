package embedded_test

import (
	"context"
	"database/sql"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/embedded"
)

func TestPostgresKeepsItsDataAndTakesALeftoverOver(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background() // closed to others: root's server must get through all the same
	say := func(line string) { t.Log(line) }

	first, err := embedded.StartPostgres(ctx, dir, say)
	require.NoError(t, err)
	require.True(t, first.Fresh)
	exec(t, first.DSN, `CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)`)

	// The first is not stopped, as if its parent had been killed.
	second, err := embedded.StartPostgres(ctx, dir, say)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Stop()) })
	require.False(t, second.Fresh)
	db := open(t, second.DSN)
	var x int
	require.NoError(t, db.QueryRowContext(ctx, `SELECT x FROM kept`).Scan(&x))
	require.Equal(t, 7, x)
	require.Error(t, open(t, first.DSN).PingContext(ctx), "the leftover is stopped")
}

func TestPostgresOfAnotherMajorVersionIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/postgres/cluster", 0o750))
	require.NoError(t, os.WriteFile(dir+"/postgres/cluster/PG_VERSION", []byte("9\n"), 0o600))
	_, err := embedded.StartPostgres(context.Background(), dir, func(string) {})
	require.ErrorContains(t, err, "of PostgreSQL 9")
	require.FileExists(t, dir+"/postgres/cluster/PG_VERSION")
}

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(t *testing.T, dsn, query string) {
	t.Helper()
	_, err := open(t, dsn).ExecContext(context.Background(), query)
	require.NoError(t, err)
}

func TestADataDirectoryHasOneInstance(t *testing.T) {
	dir := t.TempDir()
	release, err := embedded.Lock(dir)
	require.NoError(t, err)
	_, err = embedded.Lock(dir)
	require.ErrorContains(t, err, "an instance is running on "+dir)
	require.NoError(t, release())
	release, err = embedded.Lock(dir)
	require.NoError(t, err)
	require.NoError(t, release())
}
