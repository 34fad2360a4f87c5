// Package kittest starts a service as a process and sends it HTTP requests, and gives tests of adapters a real PostgreSQL and Kafka. The
// environment chooses: POSTGRES_DSN and KAFKA_BROKERS, if both are set, with a database and a topic prefix for each test; COMPONENT_URL, an
// instance that was started before the tests (docker-compose); otherwise the embedded default.
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

// Patience is the time limit of conditions in tests, long enough for a busy computer.
const Patience = 120 * time.Second

var (
	buildMu  sync.Mutex
	binaries = map[string]string{} // paths by the folders of programs
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
	command := exec.Command("go", append(args, ".")...) // go build, at most once a program
	command.Dir = program
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	binaries[program] = path
	return path, nil
}

// Binary builds the program in the root of the module whose tests run, once per test process.
func Binary(t *testing.T) string {
	t.Helper()
	module, err := exec.Command("go", "env", "GOMOD").Output() // go env
	require.NoError(t, err, "go env GOMOD")
	return Build(t, filepath.Dir(strings.TrimSpace(string(module))))
}

// Build builds the program in a folder, once per test process.
func Build(t *testing.T, program string) string {
	t.Helper()
	folder, err := filepath.Abs(program)
	require.NoError(t, err)
	path, err := build(folder)
	require.NoError(t, err)
	return path
}

// Environment is what the instances of a test share: a database, a broker, a data directory.
type Environment struct {
	t       *testing.T
	env     map[string]string
	DataDir string
	Prefix  string
	admin   string // DSN to drop the database with
	spoilt  bool   // a test has spoilt what is stored
	host    *Instance
	shared  map[string]string // settings of the instances beside the host
	runBy   []string

	// Program is the folder of the program that instances run. Empty: the root of the module whose tests run.
	Program string

	// FromHost returns settings of the instances beside the host that name parts which run in the host's process. Nil: there are none.
	FromHost func(host *Instance) map[string]string
}

// External is the URL of an instance that was started before the tests, or empty.
func External() string { return os.Getenv("COMPONENT_URL") }

// Real tells whether real services are set.
func Real() bool { return os.Getenv("POSTGRES_DSN") != "" && os.Getenv("KAFKA_BROKERS") != "" }

// NewEnvironment makes a world of one's own. Settings are added to the environment of each instance.
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

// Set adds a setting to the environment of each instance that is started from now on.
func (w *Environment) Set(name, value string) { w.env[name] = value }

// Setting is the value of a setting of all instances, or empty.
func (w *Environment) Setting(name string) string { return w.env[name] }

// DSN is the database of the world's instances, if it is a real one.
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

// OpenDB connects to a database until the test's end.
func OpenDB(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Column reads one column of text.
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

// tearDown removes what is left: a server whose instance was killed, the data, the database.
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
		if dsn := w.env["POSTGRES_DSN"]; dsn != "" { // else the test has chosen the embedded one
			w.audited(dsn)
		}
		exec1(w.t, w.admin, "DROP DATABASE "+w.Prefix+" WITH (FORCE)")
	}
}

// Eventually tries until there is no error.
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

// LastingPlan is the plan that PostgreSQL keeps for all calls of a statement with so many parameters.
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

// LongTests tells whether LONG_TESTS is set.
func LongTests() bool { return os.Getenv("LONG_TESTS") != "" }

// Long leaves a test out that takes long, or that proves the kit rather than the service, unless LONG_TESTS is set: make long-test, and CI, do.
func Long(t *testing.T) {
	t.Helper()
	if !LongTests() {
		t.Skip("left out of go test ./...: make long-test, and CI, set LONG_TESTS")
	}
}
