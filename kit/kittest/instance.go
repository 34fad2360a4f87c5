package kittest

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Instance is a running process of the service, started by the test or before it.
type Instance struct {
	Client
	t       *testing.T
	env     *Environment
	addr    string
	command *exec.Cmd
	exited  chan struct{}
	exit    error
	own     []string // settings of this one
	mark    int      // where the output of the last process begins
	mu      sync.Mutex
	output  strings.Builder
}

// Host starts the instance that runs the embedded PostgreSQL and Kafka, where no real ones are set. Instances that are started
// after it share them.
func (w *Environment) Host(settings ...string) *Instance {
	w.t.Helper()
	i := w.StartWith(settings...)
	shared := map[string]string{"POSTGRES_DSN": i.DSN()}
	if w.env["BROKER"] != "postgres" {
		shared["KAFKA_BROKERS"] = strings.Join(i.Brokers(), ",")
	}
	if w.FromHost != nil {
		maps.Copy(shared, w.FromHost(i))
	}
	w.host, w.shared = i, shared
	return i
}

// Start starts an instance and waits until it is ready. It is stopped at the test's end.
func (w *Environment) Start(settings ...string) *Instance {
	w.t.Helper()
	i := w.Launch(settings...)
	i.waitReady()
	return i
}

// StartWith starts an instance whose settings it keeps when it is started again.
func (w *Environment) StartWith(settings ...string) *Instance {
	w.t.Helper()
	i := &Instance{t: w.t, env: w, addr: FreeAddr(w.t), own: settings}
	i.launch()
	w.t.Cleanup(i.cleanup)
	i.waitReady()
	return i
}

// HTTP is the HTTP client for the instance.
func (i *Instance) HTTP() *http.Client { return i.http }

// Again starts a new process after the last one has ended, and does not wait.
func (i *Instance) Again() {
	i.t.Helper()
	i.launch()
}

// Launch starts an instance and does not wait.
func (w *Environment) Launch(settings ...string) *Instance {
	w.t.Helper()
	i := &Instance{t: w.t, env: w, addr: FreeAddr(w.t)}
	i.launch(settings...)
	w.t.Cleanup(i.cleanup)
	return i
}

func (i *Instance) launch(settings ...string) {
	i.t.Helper()
	if i.Client.t == nil {
		i.Client = NewClient(i.t, "http://"+i.addr)
	}
	i.command = i.env.Command("serve") // ended by cleanup
	i.command.Env = append(i.command.Env, "HTTP_ADDR="+i.addr)
	if i.env.host != nil && i.env.host != i {
		for name, value := range i.env.shared {
			i.command.Env = append(i.command.Env, name+"="+value)
		}
	}
	i.command.Env = append(append(i.command.Env, i.own...), settings...)
	i.mark = len(i.Output())
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

// Command is the binary with this environment's settings, and any arguments.
func (w *Environment) Command(args ...string) *exec.Cmd {
	w.t.Helper()
	line := append(append(slices.Clone(w.runBy), w.binary()), args...)
	command := exec.Command(line[0], line[1:]...)
	command.Env = append(os.Environ(), "LOG_LEVEL="+level())
	for _, unwanted := range []string{"POSTGRES_DSN", "KAFKA_BROKERS"} {
		command.Env = append(command.Env, unwanted+"=")
	}
	for name, value := range w.env {
		command.Env = append(command.Env, name+"="+value)
	}
	return command
}

func level() string {
	if l := os.Getenv("HARNESS_LOG_LEVEL"); l != "" {
		return l
	}
	return "info"
}

// Stopped waits until nothing accepts connections at addresses, and fails if something does after 10 s: a test of an outage must not run without one.
func Stopped(t *testing.T, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		require.Eventually(t, func() bool {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			return err != nil || conn.Close() != nil
		}, 10*time.Second, 50*time.Millisecond, "%s accepts connections after it was stopped", address)
	}
}

// FreeAddr is an address on loopback whose port is free now.
func FreeAddr(t *testing.T) string {
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
		if err == nil && i.command != nil && !strings.Contains(i.Output()[i.mark:], " is ready\n") {
			err = errors.New("it has not printed its addresses yet")
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

// Kill kills the process, as kill -9 does, and waits until it has ended.
func (i *Instance) Kill() {
	i.t.Helper()
	require.NoError(i.t, i.command.Process.Kill())
	<-i.exited
}

// Attach returns an instance that was started before the tests, as COMPONENT_URL names one.
func Attach(t *testing.T, url string) *Instance {
	t.Helper()
	i := &Instance{Client: NewClient(t, url), t: t}
	i.waitReady()
	return i
}

// Environment is the environment of the instance; nil for an instance that was started before the tests.
func (i *Instance) Environment() *Environment { return i.env }

// Signal sends the process a signal.
func (i *Instance) Signal(s syscall.Signal) {
	i.t.Helper()
	require.NoError(i.t, i.command.Process.Signal(s))
}

// Exited tells whether the process has ended.
func (i *Instance) Exited() bool {
	select {
	case <-i.exited:
		return true
	default:
		return false
	}
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
	case <-time.After(Patience):
		i.t.Fatalf("it does not exit:\n%s", i.Output())
	}
	return i.command.ProcessState.ExitCode()
}

// ClockAhead stops the process, sets the clock of the database, which all instances follow, ahead, and starts the process again.
func (i *Instance) ClockAhead(d time.Duration) {
	i.t.Helper()
	db := OpenDB(i.t, i.DSN())
	var name string
	require.NoError(i.t, db.QueryRow(`SELECT current_database()`).Scan(&name))
	_, err := db.Exec(fmt.Sprintf(`ALTER DATABASE %q SET millrace.test_clock_ahead = '%ds'`, name, int(d.Seconds())))
	require.NoError(i.t, err)
	code, _ := i.Terminate()
	require.Zero(i.t, code, i.Output())
	i.Restart()
}

// Restart starts a new process with the same settings, and waits until it is ready.
func (i *Instance) Restart() {
	i.t.Helper()
	i.launch()
	i.waitReady()
}

// Audit runs millrace audit on the instance's database and returns what it prints and its exit code.
func (i *Instance) Audit(args ...string) (output string, code int) {
	i.t.Helper()
	return i.env.audit(i.DSN(), args...)
}

func (w *Environment) audit(dsn string, args ...string) (output string, code int) {
	w.t.Helper()
	command := exec.Command(w.binary(), append([]string{"audit"}, args...)...) // read to its end
	command.Env = append(os.Environ(), "POSTGRES_DSN="+dsn, "KAFKA_BROKERS=", "TOPIC_PREFIX="+w.Prefix)
	out, err := command.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		require.NoError(w.t, err)
	}
	return string(out), command.ProcessState.ExitCode()
}

// ExpectFaults says that the test spoils what is stored: the audit at its end is left out.
func (i *Instance) ExpectFaults() { i.env.spoilt = true }

// audited fails the test if the audit of what it has stored finds something. An embedded database is audited before the instance stops
// that it is embedded in, a real one before it is dropped.
func (w *Environment) audited(dsn string) {
	if w.spoilt || w.t.Failed() || w.t.Skipped() {
		return
	}
	if len(Column(w.t, OpenDB(w.t, dsn), `SELECT 'there' WHERE to_regclass('events') IS NOT NULL`)) == 0 {
		return // the test never came as far as to have a schema
	}
	if output, code := w.audit(dsn); code != 0 {
		w.t.Errorf("the audit exits with %d:\n%s", code, output)
	}
}

func (i *Instance) cleanup() {
	embeds := i.env.env["POSTGRES_DSN"] == "" && (i.env.host == nil || i.env.host == i)
	if found := dsnForm.FindString(i.Output()); embeds && found != "" && !i.Exited() && strings.Contains(i.Output(), " is ready\n") {
		i.env.audited(i.DSN())
	}
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
	brokersForm = regexp.MustCompile(`kafka +(\S+:\d+)`)
)

// DSN is the instance's database.
func (i *Instance) DSN() string {
	i.t.Helper()
	if i.env == nil {
		i.t.Skip("needs the database of the instance that COMPONENT_URL names")
	}
	if dsn := i.env.env["POSTGRES_DSN"]; dsn != "" {
		return dsn
	}
	if dsn := i.env.shared["POSTGRES_DSN"]; dsn != "" {
		return dsn
	}
	found := dsnForm.FindAllString(i.Output(), -1)
	require.NotEmpty(i.t, found)
	return found[len(found)-1]
}

// Brokers is the instance's Kafka.
func (i *Instance) Brokers() []string {
	i.t.Helper()
	if i.env == nil {
		i.t.Skip("needs the Kafka of the instance that COMPONENT_URL names")
	}
	if brokers := i.env.env["KAFKA_BROKERS"]; brokers != "" {
		return strings.Split(brokers, ",")
	}
	if brokers := i.env.shared["KAFKA_BROKERS"]; brokers != "" {
		return strings.Split(brokers, ",")
	}
	found := brokersForm.FindAllStringSubmatch(i.Output(), -1)
	require.NotEmpty(i.t, found)
	return []string{found[len(found)-1][1]}
}

// Topic is the full name of a topic.
func (i *Instance) Topic(name string) string { return i.env.Prefix + "." + name }
