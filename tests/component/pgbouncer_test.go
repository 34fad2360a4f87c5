package component

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// pgbouncer starts Debian's PgBouncer with its defaults before a database, and returns the DSN through it.
func pgbouncer(t *testing.T, dsn, mode string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs PgBouncer: apt-get install pgbouncer")
	}
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	password, has := u.User.Password()
	if has {
		password = " password=" + password
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	dir, err := os.MkdirTemp("", "pgbouncer-") //nolint:usetesting // nobody cannot read below t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755)) // it runs as another user if this is root
	config := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
* = host=%s port=%s user=%s%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
`, u.Hostname(), u.Port(), u.User.Username(), password, port, mode), 0o644))
	args := []string{config}
	if os.Getuid() == 0 {
		args = []string{"-u", "nobody", config}
	}
	command := exec.Command(program, args...) // ended by the clean-up
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	command.Stdout, command.Stderr = log, log
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("PgBouncer:\n%s", said[max(0, len(said)-3000):])
		}
	})
	u.Host = fmt.Sprintf("127.0.0.1:%d", port)
	kittest.Eventually(t, func() error {
		conn, err := net.Dial("tcp", u.Host)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return u.String()
}

// With PgBouncer's defaults (session pooling, 20 connections, no parameter ignored) the service works, in a schema of its own too.
func TestPgBouncerSessionPooling(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	if !kittest.Real() {
		t.Skip("needs a database: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	w := harness.NewEnvironment(t)
	_, err := kittest.OpenDB(t, w.DSN()).Exec(`CREATE SCHEMA shop`)
	require.NoError(t, err)
	i := w.StartWith("POSTGRES_DSN="+inSchema(t, pgbouncer(t, w.DSN(), "session"), "shop"), "POSTGRES_MAX_CONNS=10")
	i.Stock(100, "MUG-01")
	for range 5 {
		require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	}
	require.Equal(t, []string{"shop"}, kittest.Column(t, kittest.OpenDB(t, w.DSN()), `SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'outbox'`))
}

// In transaction pooling notifications and prepared statements get lost: the service says so and does not start.
func TestPgBouncerTransactionPoolingIsRefused(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	if !kittest.Real() {
		t.Skip("needs a database: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	for _, mode := range []string{"transaction", "statement"} {
		w := harness.NewEnvironment(t)
		i := w.Launch("POSTGRES_DSN=" + pgbouncer(t, w.DSN(), mode))
		require.NotZero(t, i.Wait(), mode)
		require.Contains(t, i.Output(), "the service needs pool_mode = session", mode)
	}
}
