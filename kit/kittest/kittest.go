// Package kittest starts a service as a process and sends HTTP requests to it, and provides a real PostgreSQL and Kafka for tests of adapters. Environment
// variables choose the services: POSTGRES_DSN and KAFKA_BROKERS, if both are set, with a database and a topic prefix for each test; COMPONENT_URL, an
// instance that was started before the tests (docker-compose); otherwise the embedded PostgreSQL and Kafka.
package kittest

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
)

// Patience is the time limit of conditions in tests. It is long enough for a busy computer.
const Patience = 120 * time.Second

var (
	buildMu  sync.Mutex
	binaries = map[string]string{} // paths of binaries, by the folders of their programs
)

func build(program string) (string, error) {
	buildMu.Lock()
	defer buildMu.Unlock()
	if path := binaries[program]; path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "millrace-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "service")
	args := []string{"build", "-o", path}
	if os.Getenv("HARNESS_RACE") != "" {
		args = append(args, "-race")
	}
	command := exec.Command("go", append(args, ".")...) // go build, at most once for each program
	command.Dir = program
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	binaries[program] = path
	return path, nil
}

// Binary builds the program in the root of the module whose tests run, once per test process, and returns the path of the binary.
func Binary(t *testing.T) string {
	t.Helper()
	module, err := exec.Command("go", "env", "GOMOD").Output() // go env
	require.NoError(t, err, "go env GOMOD")
	return Build(t, filepath.Dir(strings.TrimSpace(string(module))))
}

// Build builds the program in a folder, once per test process, and returns the path of the binary.
func Build(t *testing.T, program string) string {
	t.Helper()
	folder, err := filepath.Abs(program)
	require.NoError(t, err)
	path, err := build(folder)
	require.NoError(t, err)
	return path
}

// Environment has what the instances of a test share: a database, a broker, a data directory and settings. NewEnvironment makes it.
type Environment struct {
	t       *testing.T
	env     map[string]string
	DataDir string
	Prefix  string
	admin   string // the DSN with which the database is dropped
	spoilt  bool   // the test has corrupted the stored data
	host    *Instance
	shared  map[string]string // settings of the instances that use the services of the host
	runBy   []string

	// Program is the folder of the program that the instances run. Empty: the root of the module whose tests run.
	Program string

	// FromHost returns settings for the other instances that name services in the process of the host, such as the sandbox. Optional.
	FromHost func(host *Instance) map[string]string
}

// External returns the URL of an instance that was started before the tests (COMPONENT_URL); empty if there is none.
func External() string { return os.Getenv("COMPONENT_URL") }

// Real reports whether POSTGRES_DSN and KAFKA_BROKERS are set.
func Real() bool { return os.Getenv("POSTGRES_DSN") != "" && os.Getenv("KAFKA_BROKERS") != "" }

// NewEnvironment makes an environment of the test's own, which is removed at the end of the test. Settings are "NAME=value" and apply to each instance. The
// test is skipped if COMPONENT_URL is set.
func NewEnvironment(t *testing.T, settings ...string) *Environment {
	t.Helper()
	if External() != "" {
		t.Skip("needs an instance of its own, not that of COMPONENT_URL")
	}
	w := &Environment{t: t, env: map[string]string{}, Prefix: "t" + strings.ReplaceAll(uuid.NewString()[:13], "-", "")}
	dir, err := os.MkdirTemp("", "millrace-world-")
	require.NoError(t, err)
	w.DataDir = dir
	t.Cleanup(func() { w.tearDown() })
	w.env["DATA_DIR"], w.env["TOPIC_PREFIX"] = dir, w.Prefix
	if Real() {
		w.env["KAFKA_BROKERS"] = os.Getenv("KAFKA_BROKERS")
		w.env["POSTGRES_DSN"] = w.newDatabase(os.Getenv("POSTGRES_DSN"))
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		w.env[name] = value
	}
	return w
}

func (w *Environment) binary() string {
	w.t.Helper()
	if w.Program == "" {
		return Binary(w.t)
	}
	return Build(w.t, w.Program)
}

// Set sets a setting of all instances that are started afterwards.
func (w *Environment) Set(name, value string) { w.env[name] = value }

// Setting returns the value of a setting of all instances, empty if it is not set.
func (w *Environment) Setting(name string) string { return w.env[name] }

// DSN returns the DSN of the real database of the environment; empty if the host embeds it.
func (w *Environment) DSN() string { return w.env["POSTGRES_DSN"] }

func (w *Environment) newDatabase(dsn string) string {
	w.admin = dsn
	exec1(w.t, dsn, "CREATE DATABASE "+w.Prefix)
	u, err := url.Parse(dsn)
	require.NoError(w.t, err, "the tests need POSTGRES_DSN as a URL")
	u.Path = "/" + w.Prefix
	return u.String()
}

func exec1(t testing.TB, dsn, statement string) {
	t.Helper()
	db := OpenDB(t, dsn)
	_, err := db.ExecContext(context.Background(), statement)
	require.NoError(t, err)
}

// OpenDB connects to a database. The connection is closed at the end of the test.
func OpenDB(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Column returns the rows of a query with one column of text.
func Column(t *testing.T, db *sql.DB, query string, args ...any) (values []string) {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), query, args...)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var v string
		require.NoError(t, rows.Scan(&v))
		values = append(values, v)
	}
	require.NoError(t, rows.Err())
	return values
}

// tearDown removes what the test leaves behind: a server whose instance was killed, the data directory, the database.
func (w *Environment) tearDown() {
	content, err := os.ReadFile(filepath.Join(w.DataDir, "postgres/cluster/postmaster.pid"))
	if err == nil {
		var pid int
		if _, err := fmt.Sscan(string(content), &pid); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGQUIT)
			for range 100 {
				if syscall.Kill(pid, 0) != nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	_ = os.RemoveAll(w.DataDir)
	if w.admin != "" {
		if dsn := w.env["POSTGRES_DSN"]; dsn != "" { // empty if the test has chosen the embedded PostgreSQL
			w.audited(dsn)
		}
		exec1(w.t, w.admin, "DROP DATABASE "+w.Prefix+" WITH (FORCE)")
	}
}

// Eventually calls try until it returns no error. It fails the test after the time Patience.
func Eventually(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(25 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %v", Patience, err)
}

// LastingPlan returns the generic plan of a statement with this number of parameters, which PostgreSQL uses for all calls of a prepared statement.
func LastingPlan(t *testing.T, db *sqlx.DB, query string, parameters int) string {
	t.Helper()
	conn, err := db.Connx(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	var lines []string
	_, err = conn.ExecContext(t.Context(), "ANALYSE; SET plan_cache_mode = force_generic_plan; PREPARE lasting AS "+query)
	require.NoError(t, err)
	defer func() { _, _ = conn.ExecContext(t.Context(), "DEALLOCATE lasting; RESET plan_cache_mode") }()
	require.NoError(t, conn.SelectContext(t.Context(), &lines, "EXPLAIN EXECUTE lasting("+strings.TrimSuffix(strings.Repeat("NULL, ", parameters), ", ")+")"))
	return strings.Join(lines, "\n")
}

// LongTests reports whether LONG_TESTS is set.
func LongTests() bool { return os.Getenv("LONG_TESTS") != "" }

// Long skips the test unless LONG_TESTS is set, as make long-test and CI do. It is for tests that take long, and for tests of the kit rather than of the
// service.
func Long(t *testing.T) {
	t.Helper()
	if !LongTests() {
		t.Skip("left out of go test ./...: make long-test, and CI, set LONG_TESTS")
	}
}
