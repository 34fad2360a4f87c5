package component

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/service/demo/invariants"
	"github.com/millrace/millrace/tests/harness"
)

// restore runs a dump, made with pg_dump --inserts, on an empty database.
func restore(t *testing.T, dsn, dump string) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	defer db.Close()
	conn, err := db.Conn(context.Background())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Raw(func(driver any) error {
		_, err := driver.(*stdlib.Conn).Conn().PgConn().Exec(context.Background(), dump).ReadAll()
		return err
	}))
}

// consistent waits until the invariants hold. It does not compare with the topics, which lack earlier events here.
func consistent(t *testing.T, i *harness.Instance, sandbox string, orders int) invariants.Report {
	t.Helper()
	report, err := invariants.Client{URL: i.URL, HTTP: i.HTTP(), AtLeast: orders, SandboxURL: sandbox}.Wait(context.Background(), 2*time.Minute)
	require.NoError(t, err)
	require.Empty(t, report.Faults)
	return report
}

// A database that the version before left in the middle of its work, with the first schema and the first version of the saga, is
// brought up to date and carried to its end. testdata/version1 was written by that version.
func TestDataOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	if !kittest.Real() {
		t.Skip("needs POSTGRES_DSN and KAFKA_BROKERS")
	}
	w := harness.NewEnvironment(t)
	dump, err := os.ReadFile("testdata/version1/database.sql")
	require.NoError(t, err)
	restore(t, w.DSN(), strings.ReplaceAll(string(dump), "golden.", w.Prefix+"."))
	require.NoError(t, os.CopyFS(filepath.Join(w.DataDir, "sandbox"), os.DirFS("testdata/version1")))

	i := w.Start()
	report := consistent(t, i, "", 13)
	require.Equal(t, 13, report.Orders)
	require.Equal(t, map[string]int{
		"payment declined": 3, "too heavy for the carrier": 2, "capture refused": 2, "authorise payment: no answer in time": 1,
		"out of stock: VOID-00, of which nothing was ever received": 2,
	}, report.ByReason)
	var page struct {
		Sagas []struct {
			Definition int    `json:"definition_version"`
			ID         string `json:"saga_id"`
			Status     string
		}
	}
	i.Do(http.MethodGet, "/v1/sagas?limit=100", "").JSON(t, &page)
	versions := map[int]int{}
	for _, s := range page.Sagas {
		versions[s.Definition]++
		var replayed kittest.Saga // from its history
		i.Do(http.MethodGet, "/v1/sagas/"+s.ID, "").JSON(t, &replayed)
		require.Equal(t, s.Status, replayed.Status)
	}
	require.Equal(t, map[int]int{1: 11, 2: 2}, versions, "who began with version 1 ended with it")
}

// A database that is dumped, and restored into a new cluster, goes on where it was: numbers of transactions, which begin anew there,
// mean nothing to us.
func TestDumpedAndRestoredElsewhere(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	pgDump, err := exec.LookPath("pg_dump")
	if err != nil && len(found) > 0 {
		pgDump, err = found[len(found)-1], nil
	}
	if !kittest.Real() || err != nil {
		t.Skip("needs POSTGRES_DSN, KAFKA_BROKERS and pg_dump")
	}
	w := harness.NewEnvironment(t)
	sandbox := w.Sandbox()
	i := w.Start()
	i.Stock(1000, "MUG-01", "TEE-02")
	for range 10 {
		i.Decided(i.Place("pm_ok", "MUG-01"))
	}
	for range 20 {
		i.Place("pm_capture_refused", "TEE-02")
		i.Place("pm_ok", "MUG-01")
	}
	time.Sleep(200 * time.Millisecond) // some of them are in the middle
	i.Kill()
	dump, err := exec.Command(pgDump, "--inserts", "--no-owner", "--no-privileges", w.DSN()).Output()
	require.NoError(t, err)
	var clean strings.Builder
	for line := range strings.SplitSeq(string(dump), "\n") {
		if !strings.HasPrefix(line, "--") && !strings.HasPrefix(line, `\`) {
			clean.WriteString(line + "\n")
		}
	}
	dir := t.TempDir()
	cluster, err := embedded.StartPostgres(context.Background(), dir, func(string) {})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cluster.Stop() })
	restore(t, cluster.DSN, clean.String())

	elsewhere := w.Start("POSTGRES_DSN=" + cluster.DSN)
	consistent(t, elsewhere, sandbox.URL, 50)
	for range 10 {
		require.Equal(t, "confirmed", elsewhere.Decided(elsewhere.Place("pm_ok", "MUG-01")).Status)
	}
	consistent(t, elsewhere, sandbox.URL, 60)
	_, _ = elsewhere.Terminate()
}

// A full disk stops the service from accepting, with a clear answer; what was accepted is kept and goes on when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	if kittest.External() != "" || os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system, and an instance of its own")
	}
	w := harness.NewEnvironment(t, "POSTGRES_DSN=", "KAFKA_BROKERS=") // the embedded ones, which keep their data there
	if err := syscall.Mount("tmpfs", w.DataDir, "tmpfs", 0, "size=192m,mode=755"); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(w.DataDir, syscall.MNT_DETACH) })
	i := w.Start()
	i.Stock(1_000_000, "MUG-01")
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)

	ballast := filepath.Join(w.DataDir, "ballast")
	file, err := os.Create(ballast)
	require.NoError(t, err)
	for chunk := make([]byte, 64<<10); ; {
		if _, err := file.Write(chunk); err != nil {
			break // no room any more
		}
	}
	accepted, refused := 1, 0
	deadline := time.Now().Add(30 * time.Second)
	for refused < 20 && time.Now().Before(deadline) {
		response, err := i.Try(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"))
		switch {
		case err == nil && response.Status == http.StatusAccepted:
			accepted++
		case err == nil:
			require.Equal(t, http.StatusServiceUnavailable, response.Status, response.Body)
			require.Contains(t, response.Body, "not available")
			refused++
		default:
			refused++
		}
	}
	require.Positive(t, refused, "it stops accepting")
	require.NoError(t, file.Close())
	require.NoError(t, os.Remove(ballast))
	if i.Exited() { // PostgreSQL may have given up, and the service with it
		i.Restart()
	}
	kittest.Eventually(t, func() error {
		response, err := i.Try(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"))
		if err == nil && response.Status != http.StatusAccepted {
			err = fmt.Errorf("%d: %s", response.Status, response.Body)
		}
		return err
	})
	report := consistent(t, i, "", accepted+1)
	require.GreaterOrEqual(t, report.Orders, accepted+1)
}

// A backlog that was accepted without workers is processed when a worker starts.
func TestALongBacklogAtTheStart(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w := harness.NewEnvironment(t)
	api := w.Start("ROLES=api")
	const orders = 300
	response := api.Do(http.MethodPost, "/v1/stock/MUG-01/receipts", `{"quantity":10000}`)
	require.Equal(t, http.StatusAccepted, response.Status)
	for range orders {
		api.Place("pm_ok", "MUG-01")
	}
	api.Terminate()
	i := w.Start()
	report := consistent(t, i, "", orders)
	require.Equal(t, orders, report.Orders)
	for reason := range report.ByReason {
		require.Contains(t, reason, "no answer in time")
	}
}
