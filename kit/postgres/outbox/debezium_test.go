package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// logical makes replication slots of a database whose log has what logical decoding needs, or skips the test.
func logical(t *testing.T, db *sqlx.DB) (slot func(name string) string) {
	t.Helper()
	var level string
	require.NoError(t, db.Get(&level, `SHOW wal_level`))
	if level != "logical" {
		t.Skip("needs wal_level = logical in PostgreSQL")
	}
	return func(name string) string {
		name = fmt.Sprint(name, "_", time.Now().UnixNano())
		_, err := db.Exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, name)
		require.NoError(t, err)
		t.Cleanup(func() { _, _ = db.Exec(`SELECT pg_drop_replication_slot($1)`, name) })
		return name
	}
}

// confirm has a slot confirm everything that was written so far, as a consumer does that has sent it.
func confirm(t *testing.T, db *sqlx.DB, slot string) {
	t.Helper()
	_, err := db.Exec(`SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())`, slot)
	require.NoError(t, err)
}

// runTimers runs what is left of a relay where Debezium sends, until the test ends.
func runTimers(t *testing.T, db *sqlx.DB, dsn, slot string) {
	t.Helper()
	relay := outbox.NewRelay(db, nil, slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn, Poll: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); relay.RunTimers(ctx, slot, "markers") }()
	t.Cleanup(func() { cancel(); <-done })
}

func pendingRows(t *testing.T, db *sqlx.DB) int {
	t.Helper()
	b, err := outbox.LoadBacklog(t.Context(), db)
	require.NoError(t, err)
	return b.Pending
}

func requirePending(t *testing.T, db *sqlx.DB, n int) {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	require.Equal(t, n, pendingRows(t, db))
}

func eventuallyNonePending(t *testing.T, db *sqlx.DB, slot string) {
	t.Helper()
	kittest.Eventually(t, func() error {
		confirm(t, db, slot) // what the relay looks at may have been written after the last time
		if pendingRows(t, db) > 0 {
			return errors.New("not deleted yet")
		}
		return nil
	})
}

// Where Debezium sends, rows are deleted only while its own replication slot exists. Another slot of the same database, a backup's or a
// replica's, does not count.
func TestDebeziumDeletesWithItsOwnSlotOnly(t *testing.T) {
	db, dsn := kittest.Database(t)
	slot := logical(t, db)
	other, name := slot("other"), fmt.Sprint("ours_", time.Now().UnixNano())
	write(t, db, "t", item{key: "k", text: "1"})
	runTimers(t, db, dsn, name)
	confirm(t, db, other)
	requirePending(t, db, 1)
	_, err := db.Exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, name)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = db.Exec(`SELECT pg_drop_replication_slot($1)`, name) })
	eventuallyNonePending(t, db, name)
}

// Rows are deleted when the slot has confirmed their commit, and not before: a slot that is dropped, or lost because its log grew too large,
// leaves in the outbox what was not sent. A row of a transaction that commits late is not taken for one of the rows around it.
func TestDebeziumDeletesUpToTheConfirmedLSNOnly(t *testing.T) {
	db, dsn := kittest.Database(t)
	ours := logical(t, db)("ours")
	late, err := db.Beginx()
	require.NoError(t, err)
	defer late.Rollback()
	insert := `INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ('late', 't', 'late', 0, '1', '{}')`
	_, err = late.Exec(insert) // it has the lowest id
	require.NoError(t, err)
	write(t, db, "t", item{key: "k", text: "1"}, item{key: "k", text: "2"})
	runTimers(t, db, dsn, ours)
	requirePending(t, db, 2)
	kittest.Eventually(t, func() error {
		// As long as it is open, the slot cannot be advanced beyond its begin by a consumer that keeps transactions whole, but it confirms
		// commits after that.
		confirm(t, db, ours)
		if n := pendingRows(t, db); n > 0 {
			return fmt.Errorf("%d rows are left", n)
		}
		return nil
	})
	require.NoError(t, late.Commit())
	requirePending(t, db, 1)
	eventuallyNonePending(t, db, ours)

	// Markers follow the last row in the log, so that there is something that the slot can confirm. They leave no rows.
	write(t, db, "t", item{key: "k", text: "3"})
	sequence := func() (id int64) {
		require.NoError(t, db.Get(&id, `SELECT last_value FROM outbox_id_seq`))
		return id
	}
	first := sequence()
	kittest.Eventually(t, func() error {
		if sequence() == first {
			return errors.New("no marker yet")
		}
		return nil
	})
	requirePending(t, db, 1)
	eventuallyNonePending(t, db, ours)

	// A timer that becomes due is a new row.
	write(t, db, "t", item{key: "timer", text: "1", due: time.Now().Add(-time.Second)})
	kittest.Eventually(t, func() error {
		if pendingRows(t, db) != 1 {
			return errors.New("the timer is not ready yet")
		}
		return nil
	})
	requirePending(t, db, 1)
	eventuallyNonePending(t, db, ours)
}
