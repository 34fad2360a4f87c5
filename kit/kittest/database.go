package kittest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/migrations"
)

// server is the PostgreSQL of this test process.
var server string

// Main runs a package's tests on POSTGRES_DSN, or on an embedded PostgreSQL of their own. Call it from TestMain.
func Main(m *testing.M) { os.Exit(mainCode(m)) }

func mainCode(m *testing.M) int {
	if server = os.Getenv("POSTGRES_DSN"); server != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "millrace-postgres-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	pg, err := embedded.StartPostgres(context.Background(), dir, func(line string) { fmt.Fprintln(os.Stderr, line) })
	if err != nil {
		panic(err)
	}
	defer pg.Stop()
	server = pg.DSN
	return m.Run()
}

// Database makes a database with the kit's tables and those of a service's migrations, and removes it at the end of the test.
func Database(t testing.TB, service ...fs.FS) (db *sqlx.DB, dsn string) {
	t.Helper()
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")
	exec1(t, server, "CREATE DATABASE "+name)
	t.Cleanup(func() { exec1(t, server, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(server)
	require.NoError(t, err, "the tests need POSTGRES_DSN as a URL")
	u.Path = "/" + name
	db, err = postgres.Open(u.String(), 30)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	require.NoError(t, schema(service).Up(t.Context(), db.DB))
	return db, u.String()
}

func schema(service []fs.FS) migrations.Schema {
	if len(service) > 0 {
		return migrations.New(service[0])
	}
	return migrations.New(nil)
}

// ClockAhead connects to the database of db with a clock that is ahead: rows that are written there have a later time, and existing rows
// become older.
func ClockAhead(t *testing.T, db *sqlx.DB, d time.Duration) *sqlx.DB {
	t.Helper()
	var name string
	require.NoError(t, db.Get(&name, `SELECT current_database()`))
	u, err := url.Parse(server)
	require.NoError(t, err)
	u.Path = "/" + name
	ahead, err := postgres.Open(ClockAheadDSN(t, u.String(), d), 10)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ahead.Close() })
	return ahead
}

// ClockAheadDSN is a database with a clock that is ahead.
func ClockAheadDSN(t *testing.T, dsn string, d time.Duration) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	query := u.Query()
	query.Set("millrace.test_clock_ahead", fmt.Sprintf("%ds", int(d.Seconds())))
	u.RawQuery = query.Encode()
	return u.String()
}

// ExampleDatabase is Database for examples, which have no test. Done removes it.
func ExampleDatabase() (db *sqlx.DB, dsn string, done func()) {
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")
	u, err := url.Parse(server)
	must(err)
	admin, err := postgres.Open(server, 2)
	must(err)
	_, err = admin.Exec("CREATE DATABASE " + name) // a name of our own making
	must(err)
	u.Path = "/" + name
	db, err = postgres.Open(u.String(), 10)
	must(err)
	must(migrations.New(nil).Up(context.Background(), db.DB))
	return db, u.String(), func() {
		_ = db.Close()
		_, err := admin.Exec("DROP DATABASE " + name + " WITH (FORCE)")
		must(errors.Join(err, admin.Close()))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Kafka is KAFKA_BROKERS, or an embedded broker of the test's own.
func Kafka(t *testing.T) []string {
	t.Helper()
	if brokers := os.Getenv("KAFKA_BROKERS"); brokers != "" {
		return strings.Split(brokers, ",")
	}
	broker, err := embedded.StartKafka(t.TempDir(), 0)
	require.NoError(t, err)
	t.Cleanup(broker.Stop)
	return broker.Brokers
}
