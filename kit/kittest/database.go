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

// server is the DSN of the PostgreSQL of this test process.
var server string

// Main runs the tests of a package on the PostgreSQL of POSTGRES_DSN, or on an embedded PostgreSQL that it starts for them. TestMain must call it. It does
// not return.
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

// Database creates a database with the tables of the kit and of a service's migrations, and removes it at the end of the test. It needs Main.
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

// ClockAhead connects to the database of db in sessions whose clock is ahead by d: rows that are written in them have a later time, and existing rows appear
// older. It needs Main.
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

// ClockAheadDSN returns the DSN with a setting that makes the clock of its sessions ahead by d, in whole seconds.
func ClockAheadDSN(t *testing.T, dsn string, d time.Duration) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	query := u.Query()
	query.Set("millrace.test_clock_ahead", fmt.Sprintf("%ds", int(d.Seconds())))
	u.RawQuery = query.Encode()
	return u.String()
}

// ExampleDatabase is Database for examples, which have no testing.T. It panics on errors. Done removes the database.
func ExampleDatabase() (db *sqlx.DB, dsn string, done func()) {
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")
	u, err := url.Parse(server)
	must(err)
	admin, err := postgres.Open(server, 2)
	must(err)
	_, err = admin.Exec("CREATE DATABASE " + name) // the name is generated above
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

// Kafka returns the addresses in KAFKA_BROKERS, or of an embedded broker that runs until the end of the test.
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
