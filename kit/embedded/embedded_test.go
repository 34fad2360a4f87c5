//go:build !noembedded

package embedded_test

import (
	"context"
	"database/sql"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/embedded"
)

func TestPostgresKeepsItsDataAndTakesALeftoverOver(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background() // closed to other users: the server of root must start anyway
	logf := func(line string) { t.Log(line) }

	first, err := embedded.StartPostgres(ctx, dir, logf)
	require.NoError(t, err)
	require.True(t, first.Fresh)
	exec(t, first.DSN, `CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)`)

	// The first server is not stopped, as if its parent had been killed.
	second, err := embedded.StartPostgres(ctx, dir, logf)
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
	require.NoError(t, os.MkdirAll(dir+"/postgres/cluster", 0o755))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir+"/postgres", 65534, 65534))
	}
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

func TestDataDirectoryHasOneInstance(t *testing.T) {
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

// The variables of libpq are for databases that the user works with. They affect neither the embedded server nor connections to it.
func TestEmbeddedPostgresIgnoresLibpqVariables(t *testing.T) {
	for name, value := range map[string]string{
		"PGSERVICE": "production", "PGSERVICEFILE": "/nowhere", "PGOPTIONS": "-c default_transaction_read_only=on", "PGHOST": "db.example", "PGPORT": "1", "PGUSER": "ada",
		"PGPASSWORD": "secret", "PGDATABASE": "other", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere", "PGTARGETSESSIONATTRS": "read-only",
		"PGDATA": "/nowhere", "PGTZ": "nonsense", "PGCLIENTENCODING": "SQL_ASCII", "PGREQUIRESSL": "1", "PGREALM": "x", "PGGSSLIB": "gssapi", "PGAPPNAME": "x", "PGCONNECT_TIMEOUT": "x",
	} {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	pg, err := embedded.StartPostgres(t.Context(), dir, func(string) {})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Stop()) })
	exec(t, pg.DSN, `CREATE TABLE written (x int)`)
	require.Equal(t, pg.DSN, embedded.Running(dir))
}

// A start that is cancelled leaves no server behind.
func TestEmbeddedPostgresIsStoppedWhenTheStartIsCancelled(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := embedded.StartPostgres(ctx, dir, func(string) {})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, embedded.Running(dir))
}

// Root gives the unprivileged user only directories that it has created itself.
func TestEmbeddedPostgresOfRootChangesNoOwnerOfWhatOthersPrepared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("is about root")
	}
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	prepared := filepath.Join(temporary, "millrace-postgres") // earlier versions stored downloads there
	require.NoError(t, os.Mkdir(prepared, 0o777))
	file := filepath.Join(prepared, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Chown(file, 1234, 1234))
	daemon, err := user.Lookup("daemon")
	require.NoError(t, err)
	uid, err := strconv.Atoi(daemon.Uid)
	require.NoError(t, err)

	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "postgres"), 0o755))
	planted := filepath.Join(dir, "postgres", "planted")
	require.NoError(t, os.WriteFile(planted, nil, 0o600))
	require.NoError(t, os.Chown(planted, 1234, 1234))
	require.NoError(t, os.Chown(filepath.Join(dir, "postgres"), uid, uid))

	pg, err := embedded.StartPostgres(t.Context(), dir, func(string) {})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Stop()) })
	for _, path := range []string{file, planted} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.EqualValues(t, 1234, info.Sys().(*syscall.Stat_t).Uid, path)
	}
	info, err := os.Stat(filepath.Join(dir, "postgres", "cluster"))
	require.NoError(t, err)
	require.EqualValues(t, uid, info.Sys().(*syscall.Stat_t).Uid, "the server runs as the owner of its directory")
}

func TestEmbeddedPostgresOfRootRefusesALinkAsItsDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("is about root")
	}
	dir, elsewhere := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, "postgres")))
	_, err := embedded.StartPostgres(t.Context(), dir, func(string) {})
	require.ErrorContains(t, err, "DATA_DIR: ")
	require.ErrorContains(t, err, "is a link")
}
