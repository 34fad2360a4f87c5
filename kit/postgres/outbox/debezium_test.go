package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// Where Debezium sends, rows are deleted only while its own replication slot exists. Another slot of the same database, a backup's or a
// replica's, does not count.
func TestDebeziumDeletesWithItsOwnSlotOnly(t *testing.T) {
	db, dsn := kittest.Database(t)
	var level string
	require.NoError(t, db.Get(&level, `SHOW wal_level`))
	if level != "logical" {
		t.Skip("needs wal_level = logical in PostgreSQL")
	}
	slots := []string{"other_" + fmt.Sprint(time.Now().UnixNano()), "ours_" + fmt.Sprint(time.Now().UnixNano())}
	slot := func(name string) {
		_, err := db.Exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, name)
		require.NoError(t, err)
		t.Cleanup(func() { _, _ = db.Exec(`SELECT pg_drop_replication_slot($1)`, name) })
	}
	slot(slots[0])
	write(t, db, "t", item{key: "k", text: "1"})
	relay := outbox.NewRelay(db, nil, slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn, Poll: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); relay.RunTimers(ctx, slots[1]) }()
	defer func() { cancel(); <-done }()
	pending := func() int {
		b, err := outbox.Read(t.Context(), db)
		require.NoError(t, err)
		return b.Pending
	}
	time.Sleep(500 * time.Millisecond)
	require.Equal(t, 1, pending())
	slot(slots[1])
	kittest.Eventually(t, func() error {
		if pending() > 0 {
			return errors.New("not deleted yet")
		}
		return nil
	})
}
