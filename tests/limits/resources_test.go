package limits

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/tests/harness"
)

// While others have taken all connections of PostgreSQL, the service says so; afterwards it goes on by itself.
func TestConnectionsOfPostgreSQLTakenByOthers(t *testing.T) {
	kittest.Long(t)
	db, dsn := kittest.Database(t, migrations.Files)
	const limit = 40
	var name string
	require.NoError(t, db.Get(&name, `SELECT current_database()`))
	role := name + "_service"
	_, err := db.Exec(fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD 'x' CONNECTION LIMIT %d; GRANT USAGE ON SCHEMA public TO %s;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %s; GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %s`, role, limit, role, role, role))
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := db.Exec(`DROP OWNED BY ` + role + `; DROP ROLE ` + role)
		require.NoError(t, err)
	})
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.User = url.UserPassword(role, "x")
	w := harness.NewEnvironment(t, "POSTGRES_DSN="+u.String(), "KAFKA_BROKERS="+strings.Join(kittest.Kafka(t), ","), "MIGRATE=off", "POSTGRES_MAX_CONNS=12")
	i := w.Start()
	i.Stock(100, "MUG-01")
	i.Decided(i.Place("pm_ok", "MUG-01"))

	taker, err := pgx.ParseConfig(u.String())
	require.NoError(t, err)
	taker.RuntimeParams["application_name"] = "taker"
	var taken []*pgx.Conn
	for deadline := time.Now().Add(30 * time.Second); len(taken) < limit && time.Now().Before(deadline); {
		conn, err := pgx.ConnectConfig(context.Background(), taker)
		if err == nil {
			taken = append(taken, conn)
			continue
		}
		_, err = db.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND application_name <> 'taker'`, role)
		require.NoError(t, err)
	}
	require.Len(t, taken, limit)
	response, err := i.Try("POST", "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"))
	require.NoError(t, err)
	require.Equal(t, 503, response.Status, response.Body)
	kittest.Eventually(t, func() error {
		if !strings.Contains(i.Output(), "too many connections") {
			return fmt.Errorf("it says nothing of it: %s", i.Output())
		}
		return nil
	})
	time.Sleep(5 * time.Second) // relay, key queue and listeners try again meanwhile
	require.Equal(t, 1, strings.Count(i.Output(), "too many connections"), "one line when it begins: %s", i.Output())
	require.Contains(t, i.Output(), "lower POSTGRES_MAX_CONNS")
	for _, conn := range taken {
		require.NoError(t, conn.Close(context.Background()))
	}
	kittest.Eventually(t, func() error {
		if n := strings.Count(i.Output(), "PostgreSQL has connections again"); n != 1 {
			return fmt.Errorf("that it is over is logged %d times: %s", n, i.Output())
		}
		return nil
	})
	kittest.Eventually(t, func() error {
		response, err := i.Try("POST", "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), "Prefer", "wait=20")
		if err == nil && response.Status != 200 {
			err = fmt.Errorf("%d: %s", response.Status, response.Body)
		}
		return err
	})
	require.False(t, i.Exited())
}

// Clients that take all file descriptors are logged in one line; once they are closed, the service goes on by itself.
func TestFewFileDescriptors(t *testing.T) {
	kittest.Long(t)
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("needs prlimit")
	}
	w := harness.NewEnvironment(t, append(kittest.OwnServices(t, migrations.Files), "POSTGRES_MAX_CONNS=10", "KAFKA_PARTITIONS=1")...)
	w.Sandbox()
	w.RunBy("prlimit", "--nofile=200:200", "--")
	i := w.Start()
	i.Stock(100, "MUG-01")
	addr := strings.TrimPrefix(i.URL, "http://")
	var held []net.Conn
	for range 300 {
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			held = append(held, conn)
		}
	}
	kittest.Eventually(t, func() error {
		if n := strings.Count(i.Output(), "no file descriptor left"); n != 1 {
			return fmt.Errorf("it is said %d times", n)
		}
		return nil
	})
	for _, conn := range held {
		require.NoError(t, conn.Close())
	}
	kittest.Eventually(t, func() error {
		if n := strings.Count(i.Output(), "there are file descriptors again"); n != 1 {
			return fmt.Errorf("that it is over is logged %d times: %s", n, i.Output())
		}
		return nil
	})
	require.Equal(t, 1, strings.Count(i.Output(), "too many open files"), i.Output())
	i.HTTP().CloseIdleConnections()
	kittest.Eventually(t, func() error {
		response, err := i.Try("POST", "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), "Prefer", "wait=20")
		if err == nil && response.Status != 200 {
			err = fmt.Errorf("%d: %s", response.Status, response.Body)
		}
		return err
	})
	i.Consistent()
}

// A full disk under DATA_DIR keeps orders from being accepted, and says so. Once there is room, the service goes on by itself, and nothing is lost.
func TestFullDiskUnderDataDir(t *testing.T) {
	kittest.Long(t)
	if kittest.Real() {
		t.Skip("is about the embedded PostgreSQL and Kafka")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system of its own can be mounted here: %s", out)
	}
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", "-l", dir).Run()) })
	w := harness.NewEnvironment(t, "DATA_DIR="+dir)
	i := w.Start()
	i.Decided(i.Place("pm_ok", "MUG-01"))
	ballast := filepath.Join(dir, "ballast")
	_ = exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=64k").Run() // until there is no room
	order := harness.OrderBody("pm_ok", "MUG-01")
	refused := 0
	for deadline := time.Now().Add(60 * time.Second); refused == 0 && time.Now().Before(deadline); {
		response, err := i.Try("POST", "/v1/orders", order)
		if err != nil || response.Status != 202 {
			refused++
			t.Logf("%v %d %s", err, response.Status, response.Body)
		}
	}
	require.Positive(t, refused, "the disk is not full")
	require.NoError(t, os.Remove(ballast))
	kittest.Eventually(t, func() error {
		response, err := i.Try("POST", "/v1/orders", order, "Prefer", "wait=20")
		if err == nil && response.Status != 200 {
			err = fmt.Errorf("%d: %s", response.Status, response.Body)
		}
		return err
	})
	require.False(t, i.Exited())
	i.Consistent()
}
