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

// Instance is a running process of the service, which the test has started, or which was started before the tests (see Attach).
type Instance struct {
	Client
	t       *testing.T
	env     *Environment
	addr    string
	command *exec.Cmd
	exited  chan struct{}
	exit    error
	own     []string // settings of this instance, which Restart keeps
	mark    int      // length of the output of earlier processes
	mu      sync.Mutex
	output  strings.Builder
}

// Host starts the instance that runs the embedded PostgreSQL and Kafka, unless real ones are set. Instances that are started afterwards use its services.
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

// Start starts an instance and waits until it is ready. The instance is stopped at the end of the test. Settings are "NAME=value". A restart does not use them:
// see StartWith.
func (w *Environment) Start(settings ...string) *Instance {
	w.t.Helper()
	i := w.Launch(settings...)
	i.waitReady()
	return i
}

// StartWith is Start with settings that Restart and Again use too.
func (w *Environment) StartWith(settings ...string) *Instance {
	w.t.Helper()
	i := &Instance{t: w.t, env: w, addr: FreeAddr(w.t), own: settings}
	i.launch()
	w.t.Cleanup(i.cleanup)
	i.waitReady()
	return i
}

// HTTP returns the HTTP client that sends requests to the instance.
func (i *Instance) HTTP() *http.Client { return i.http }

// Again starts a new process of the instance and does not wait until it is ready. The last process must have ended.
func (i *Instance) Again() {
	i.t.Helper()
	i.launch()
}

// Launch is Start, but does not wait until the instance is ready.
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
	i.command = i.env.Command("serve") // cleanup stops it
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

// Command returns a command that runs the binary with these arguments and the settings of the environment.
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

// Stopped waits until no process accepts connections at the addresses, for at most 10 seconds each. Then it fails the test, because a test of an outage must
// not run without an outage.
func Stopped(t *testing.T, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		require.Eventually(t, func() bool {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			return err != nil || conn.Close() != nil
		}, 10*time.Second, 50*time.Millisecond, "%s accepts connections after it was stopped", address)
	}
}

// FreeAddr returns a loopback address with a port that is free at the moment.
func FreeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, so it does not block
	require.NoError(t, err)
	defer l.Close() // no data was sent
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

// Output returns the text that the instance has printed so far, to stdout and stderr.
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

// Attach returns an instance that was started before the tests, such as that of COMPONENT_URL. It waits until the instance is ready.
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

// Exited reports whether the process has ended.
func (i *Instance) Exited() bool {
	select {
	case <-i.exited:
		return true
	default:
		return false
	}
}

// Terminate sends SIGTERM to the process, waits until it ends, and returns its exit code and the time that this took.
func (i *Instance) Terminate() (code int, took time.Duration) {
	i.t.Helper()
	began := time.Now()
	require.NoError(i.t, i.command.Process.Signal(syscall.SIGTERM))
	return i.Wait(), time.Since(began)
}

// Wait waits until the process ends and returns its exit code. It fails the test after the time Patience.
func (i *Instance) Wait() int {
	i.t.Helper()
	select {
	case <-i.exited:
	case <-time.After(Patience):
		i.t.Fatalf("it does not exit:\n%s", i.Output())
	}
	return i.command.ProcessState.ExitCode()
}

// ClockAhead stops the process, sets the clock of the database ahead by d, and starts the process again. All instances follow that clock.
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

// Restart starts a new process and waits until it is ready. It uses the settings of the environment and of StartWith or Host, but not those of Start and
// Launch. The last process must have ended.
func (i *Instance) Restart() {
	i.t.Helper()
	i.launch()
	i.waitReady()
}

// Audit runs the command "audit" on the database of the instance and returns its output and its exit code.
func (i *Instance) Audit(args ...string) (output string, code int) {
	i.t.Helper()
	return i.env.audit(i.DSN(), args...)
}

func (w *Environment) audit(dsn string, args ...string) (output string, code int) {
	w.t.Helper()
	command := exec.Command(w.binary(), append([]string{"audit"}, args...)...) // CombinedOutput waits for its end
	command.Env = append(os.Environ(), "POSTGRES_DSN="+dsn, "KAFKA_BROKERS=", "TOPIC_PREFIX="+w.Prefix)
	out, err := command.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		require.NoError(w.t, err)
	}
	return string(out), command.ProcessState.ExitCode()
}

// ExpectFaults says that the test corrupts the stored data. Then there is no audit at the end of the test.
func (i *Instance) ExpectFaults() { i.env.spoilt = true }

// audited fails the test if the audit of the stored data finds a fault. An embedded database is audited before the instance that runs it stops, a real
// database before it is dropped.
func (w *Environment) audited(dsn string) {
	if w.spoilt || w.t.Failed() || w.t.Skipped() {
		return
	}
	if len(Column(w.t, OpenDB(w.t, dsn), `SELECT 'there' WHERE to_regclass('events') IS NOT NULL`)) == 0 {
		return // the test ended before there was a schema
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

// DSN returns the DSN of the instance's database. It skips the test for an instance of Attach.
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

// Brokers returns the addresses of the instance's Kafka. It skips the test for an instance of Attach.
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

// Topic returns the full name of a topic: the topic prefix of the environment and the name.
func (i *Instance) Topic(name string) string { return i.env.Prefix + "." + name }
