package component

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// With a real Debezium in a real Kafka Connect in the relay's place: orders of every outcome, time-outs by timers included, Debezium killed in
// the middle and started again, and the invariants.
func TestDebeziumInTheRelaysPlace(t *testing.T) {
	kittest.Long(t)
	plugins, libs := os.Getenv("DEBEZIUM_PLUGINS"), os.Getenv("KAFKA_LIBS")
	if !kittest.Real() || plugins == "" || libs == "" {
		t.Skip("needs POSTGRES_DSN, KAFKA_BROKERS, and the jars of Debezium and Kafka in DEBEZIUM_PLUGINS and KAFKA_LIBS: tests/debezium/run.sh")
	}
	w := harness.NewEnvironment(t, "DEBEZIUM=on")
	db := kittest.OpenDB(t, w.DSN())
	if level := kittest.Column(t, db, "SHOW wal_level"); level[0] != "logical" {
		t.Skip("needs wal_level = logical, not " + level[0])
	}
	out, err := w.Command("migrate", "up").CombinedOutput()
	require.NoError(t, err, string(out))
	publication, err := os.ReadFile("../../deploy/debezium/publication.sql")
	require.NoError(t, err)
	_, err = db.Exec(string(publication))
	require.NoError(t, err)
	t.Cleanup(func() { // a slot keeps a database from being dropped
		kittest.Eventually(t, func() error {
			_, err := db.Exec(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`)
			return err
		})
	})
	connect := startConnect(t, w, plugins, libs)
	kittest.Eventually(t, func() error {
		if active := kittest.Column(t, db, `SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND active`); len(active) == 0 {
			return fmt.Errorf("no slot yet")
		}
		return nil
	})
	i := w.Start("DEBEZIUM_SLOT=" + w.Prefix)
	i.Stock(1000, "MUG-01", "TEE-02", "HEAVY-99")
	for range 5 {
		i.Place("pm_ok", "MUG-01", "TEE-02")
		i.Place("pm_declined", "MUG-01")
		i.Place("pm_ok", "HEAVY-99")
	}
	i.Place("pm_slow", "MUG-01") // undone by a timer
	require.NoError(t, connect.Process.Kill())
	_ = connect.Wait() // it was killed
	i.Place("pm_ok", "MUG-01")
	startConnect(t, w, plugins, libs)
	kittest.Eventually(t, func() error { // rows are deleted when the slot has confirmed them, the last ones after a marker
		if left := kittest.Column(t, db, `SELECT count(*)::text FROM outbox WHERE due_at IS NULL`); left[0] != "0" {
			return fmt.Errorf("%s rows are left", left[0])
		}
		return nil
	})
	report := i.Consistent()
	require.GreaterOrEqual(t, report.Confirmed, 1)
	require.GreaterOrEqual(t, report.Cancelled, 11)
}

// startConnect runs Kafka Connect with deploy/debezium/connector.json, on this environment's database.
func startConnect(t *testing.T, w *harness.Environment, plugins, libs string) *exec.Cmd {
	t.Helper()
	var connector struct{ Config map[string]string }
	text, err := os.ReadFile("../../deploy/debezium/connector.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &connector))
	dsn, err := url.Parse(w.DSN())
	require.NoError(t, err)
	password, _ := dsn.User.Password()
	maps.Copy(connector.Config, map[string]string{
		"name": "outbox", "database.hostname": dsn.Hostname(), "database.port": dsn.Port(), "database.user": dsn.User.Username(), "database.password": password,
		"database.dbname": strings.TrimPrefix(dsn.Path, "/"), "slot.name": w.Prefix, "topic.prefix": w.Prefix + "-outbox",
	})
	write := func(name string, settings map[string]string) string {
		var b strings.Builder
		for name, value := range settings {
			fmt.Fprintf(&b, "%s=%s\n", name, value)
		}
		path := filepath.Join(w.DataDir, name)
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
		return path
	}
	worker := write("worker.properties", map[string]string{
		"bootstrap.servers": os.Getenv("KAFKA_BROKERS"), "offset.storage.file.filename": filepath.Join(w.DataDir, "offsets"), "offset.flush.interval.ms": "1000",
		"key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
		"plugin.path": plugins, "listeners": "http://127.0.0.1:0",
	})
	command := exec.Command("java", "-Xmx512m", "-cp", libs+"/*", "org.apache.kafka.connect.cli.ConnectStandalone", worker, write("connector.properties", connector.Config)) // ended by the clean-up
	log, err := os.OpenFile(filepath.Join(w.DataDir, "connect.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	command.Stdout, command.Stderr = log, log
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("Kafka Connect:\n%s", said[max(0, len(said)-8000):])
		}
	})
	return command
}
