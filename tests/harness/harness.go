// Package harness starts the service as its users do, as a process, and talks to it over HTTP. Where it stands is chosen by
// the environment: on POSTGRES_DSN and KAFKA_BROKERS if both are set, each test in a database and under a topic prefix of its
// own; on COMPONENT_URL if that is set, an instance that somebody else started (docker-compose); else on the embedded default.
package harness

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/kafka"
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/tests/books"
)

// patience is how long something may take that takes long when other tests use the machine too.
const patience = 120 * time.Second

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "millrace-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "millrace")
	args := []string{"build", "-o", path}
	if os.Getenv("HARNESS_RACE") != "" {
		args = append(args, "-race")
	}
	command := exec.Command("go", append(args, "github.com/millrace/millrace")...) // go build, at most once
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// Binary builds the program, once a test process.
func Binary(t *testing.T) string {
	t.Helper()
	path, err := binary()
	require.NoError(t, err)
	return path
}

// World is what instances share: a database, a broker, a data directory.
type World struct {
	t       *testing.T
	env     map[string]string
	DataDir string
	Prefix  string
	admin   string // DSN to drop the database with
}

// External is the URL of an instance that somebody else started, or empty.
func External() string { return os.Getenv("COMPONENT_URL") }

// Real tells whether real services are set.
func Real() bool { return os.Getenv("POSTGRES_DSN") != "" && os.Getenv("KAFKA_BROKERS") != "" }

// NewWorld makes a world of one's own. Settings are added to the environment of each instance.
func NewWorld(t *testing.T, settings ...string) *World {
	t.Helper()
	if External() != "" {
		t.Skip("needs an instance of its own; COMPONENT_URL names somebody else's")
	}
	w := &World{t: t, env: map[string]string{}, Prefix: "t" + strings.ReplaceAll(uuid.NewString()[:13], "-", "")}
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

func (w *World) newDatabase(dsn string) string {
	w.admin = dsn
	exec1(w.t, dsn, "CREATE DATABASE "+w.Prefix)
	u, err := url.Parse(dsn)
	require.NoError(w.t, err, "the tests need POSTGRES_DSN as a URL")
	u.Path = "/" + w.Prefix
	return u.String()
}

func exec1(t *testing.T, dsn, statement string) {
	t.Helper()
	db := OpenDB(t, dsn)
	_, err := db.ExecContext(context.Background(), statement)
	require.NoError(t, err)
}

// OpenDB connects to a database until the test's end.
func OpenDB(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// tearDown removes what is left: a server whose instance was killed, the data, the database.
func (w *World) tearDown() {
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
		exec1(w.t, w.admin, "DROP DATABASE "+w.Prefix+" WITH (FORCE)")
	}
}

// Instance is a running process of the service, or somebody else's.
type Instance struct {
	Client
	t       *testing.T
	world   *World
	addr    string
	command *exec.Cmd
	exited  chan struct{}
	exit    error
	mu      sync.Mutex
	output  strings.Builder
}

// Shared returns an instance for tests that neither break nor restart it: COMPONENT_URL's, or a new one.
func Shared(t *testing.T, settings ...string) *Instance {
	t.Helper()
	if u := External(); u != "" {
		i := &Instance{Client: NewClient(t, u), t: t}
		i.waitReady()
		return i
	}
	return NewWorld(t, settings...).Start()
}

// Start starts an instance and waits until it is ready. It is stopped at the test's end.
func (w *World) Start(settings ...string) *Instance {
	w.t.Helper()
	i := w.Launch(settings...)
	i.waitReady()
	return i
}

// Launch starts an instance and does not wait.
func (w *World) Launch(settings ...string) *Instance {
	w.t.Helper()
	i := &Instance{t: w.t, world: w, addr: freeAddr(w.t)}
	i.launch(settings...)
	w.t.Cleanup(i.cleanup)
	return i
}

func (i *Instance) launch(settings ...string) {
	i.t.Helper()
	if i.Client.t == nil {
		i.Client = NewClient(i.t, "http://"+i.addr)
	}
	i.command = exec.Command(Binary(i.t), "serve") // ended by cleanup
	i.command.Env = append(os.Environ(), "HTTP_ADDR="+i.addr, "LOG_LEVEL="+level())
	for _, unwanted := range []string{"POSTGRES_DSN", "KAFKA_BROKERS"} {
		i.command.Env = append(i.command.Env, unwanted+"=")
	}
	for name, value := range i.world.env {
		i.command.Env = append(i.command.Env, name+"="+value)
	}
	i.command.Env = append(i.command.Env, settings...)
	output, err := i.command.StdoutPipe()
	require.NoError(i.t, err)
	i.command.Stderr = i.command.Stdout
	require.NoError(i.t, i.command.Start())
	i.exited = make(chan struct{})
	go func() {
		scanner := bufio.NewScanner(output)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			i.mu.Lock()
			i.output.WriteString(scanner.Text() + "\n")
			i.mu.Unlock()
		}
		i.exit = i.command.Wait()
		close(i.exited)
	}()
}

func level() string {
	if l := os.Getenv("HARNESS_LOG_LEVEL"); l != "" {
		return l
	}
	return "info"
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, at once
	require.NoError(t, err)
	defer l.Close() // nothing was sent
	return l.Addr().String()
}

func (i *Instance) waitReady() {
	i.t.Helper()
	Eventually(i.t, func() error {
		select {
		case <-i.exited:
			i.t.Fatalf("it exited: %v\n%s", i.exit, i.Output())
		default:
		}
		status, body, err := i.Get("/readyz")
		if err == nil && (status != http.StatusOK || strings.Contains(body, "degraded")) {
			err = fmt.Errorf("%d: %s", status, body)
		}
		return err
	})
}

// Output is what the instance has printed so far.
func (i *Instance) Output() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.output.String()
}

// Kill ends the process at once, as kill -9 does, and waits until it is gone.
func (i *Instance) Kill() {
	i.t.Helper()
	require.NoError(i.t, i.command.Process.Kill())
	<-i.exited
}

// Terminate asks the process to stop and returns its exit code and how long it took.
func (i *Instance) Terminate() (code int, took time.Duration) {
	i.t.Helper()
	began := time.Now()
	require.NoError(i.t, i.command.Process.Signal(syscall.SIGTERM))
	return i.Wait(), time.Since(began)
}

// Wait waits for the process's end and returns its exit code.
func (i *Instance) Wait() int {
	i.t.Helper()
	select {
	case <-i.exited:
	case <-time.After(patience):
		i.t.Fatalf("it does not exit:\n%s", i.Output())
	}
	return i.command.ProcessState.ExitCode()
}

// Restart starts a new process with the same settings, and waits until it is ready.
func (i *Instance) Restart() {
	i.t.Helper()
	i.launch()
	i.waitReady()
}

func (i *Instance) cleanup() {
	if i.command.ProcessState == nil {
		_ = i.command.Process.Signal(syscall.SIGTERM)
		select {
		case <-i.exited:
		case <-time.After(15 * time.Second):
			i.t.Error("it did not stop within 15 s of SIGTERM")
			_ = i.command.Process.Kill()
			<-i.exited
		}
	}
	if i.t.Failed() {
		i.t.Logf("what the instance printed:\n%s", i.Output())
	}
	if strings.Contains(i.Output(), "DATA RACE") {
		i.t.Errorf("a data race:\n%s", i.Output())
	}
}

var (
	dsnForm     = regexp.MustCompile(`postgres://millrace\S+`)
	brokersForm = regexp.MustCompile(`kafka +(\S+)`)
)

// DSN is the instance's database.
func (i *Instance) DSN() string {
	i.t.Helper()
	if i.world == nil {
		i.t.Skip("needs the database; COMPONENT_URL names somebody else's instance")
	}
	if dsn := i.world.env["POSTGRES_DSN"]; dsn != "" {
		return dsn
	}
	found := dsnForm.FindAllString(i.Output(), -1)
	require.NotEmpty(i.t, found)
	return found[len(found)-1]
}

// Brokers is the instance's Kafka.
func (i *Instance) Brokers() []string {
	i.t.Helper()
	if i.world == nil {
		i.t.Skip("needs Kafka; COMPONENT_URL names somebody else's instance")
	}
	if brokers := i.world.env["KAFKA_BROKERS"]; brokers != "" {
		return strings.Split(brokers, ",")
	}
	found := brokersForm.FindAllStringSubmatch(i.Output(), -1)
	require.NotEmpty(i.t, found)
	return []string{found[len(found)-1][1]}
}

// Topic is the full name of a topic.
func (i *Instance) Topic(name string) string { return i.world.Prefix + "." + name }

// Balanced waits until the books balance, and compares the event store with Kafka.
func (i *Instance) Balanced() books.Report {
	i.t.Helper()
	report, err := books.Client{URL: i.URL, HTTP: i.http, AtLeast: int(i.placed.Load())}.Wait(context.Background(), patience, func(books.Report) {})
	require.NoError(i.t, err)
	require.Empty(i.t, report.Faults, "the books")
	if i.world != nil {
		i.logged()
	}
	return report
}

// logged checks that every stored event is in Kafka, and each stream in order.
func (i *Instance) logged() {
	i.t.Helper()
	var topics []string
	for _, category := range []string{"orders", "inventory", "payments", "shipments", "sagas"} {
		topics = append(topics, i.Topic("events."+category))
	}
	var logged books.Logged
	err := kafka.ReadAll(context.Background(), kafka.Config{Brokers: i.Brokers()}, topics, func(_ string, msg *message.Message) error {
		var version int
		if _, err := fmt.Sscan(msg.Metadata.Get(app.HeaderSequence), &version); err != nil {
			return nil //nolint:nilerr // an answer, which no stream holds; or what a test has put there
		}
		return logged.Saw(msg.Metadata.Get(app.HeaderSubject), version)
	})
	require.NoError(i.t, err)
	rows, err := OpenDB(i.t, i.DSN()).Query(`SELECT stream, max(version) FROM events GROUP BY stream`)
	require.NoError(i.t, err)
	defer rows.Close()
	stored := map[string]int{}
	for rows.Next() {
		var stream string
		var version int
		require.NoError(i.t, rows.Scan(&stream, &version))
		stored[stream] = version
	}
	require.NoError(i.t, rows.Err())
	require.NotEmpty(i.t, stored)
	require.Empty(i.t, logged.Missing(stored))
}

// Eventually tries until there is no error.
func Eventually(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(25 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %v", patience, err)
}
