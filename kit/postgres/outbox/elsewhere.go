package outbox

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// RunTimers is Run where something else than this relay sends what is ready: Debezium, which reads the table's rows in the database's log
// (deploy/debezium). Here delayed messages are made ready when they are due, which Debezium sees as new rows, and rows that are ready are
// deleted when the replication slot of this name has confirmed their commit. Nothing is deleted while there is no such slot; other slots do
// not count.
func (r *Relay) RunTimers(ctx context.Context, slot string) {
	var parts sync.WaitGroup
	parts.Go(func() { r.promote(ctx) })
	parts.Go(func() {
		var seen logged
		for ctx.Err() == nil {
			n, err := r.removeConfirmed(ctx, slot, &seen)
			if err != nil && ctx.Err() == nil {
				r.log.Warn("relay: rows that are in the log stay", "error", err)
			}
			if n > 0 {
				r.options.OnRelayed(n)
				continue
			}
			pause(ctx, r.options.Poll)
		}
	})
	parts.Wait()
}

// logged are rows whose commits are in the log before a position.
type logged struct {
	ids []int64
	lsn string
}

// maxLogged is how many rows wait for the slot's confirmation at a time.
const maxLogged = 20_000

// removeConfirmed notes which rows are ready and how far the log reaches, and deletes them once the slot has confirmed the log up to there. The
// ids alone would not do: a transaction with lower ids may commit later. The position is where the log is inserted at, not what was written
// to the disk, because a commit with synchronous_commit = off is visible before it is written. It is read after the snapshot of its statement
// was taken, so the commits of all rows that the statement sees are before it.
func (r *Relay) removeConfirmed(ctx context.Context, slot string, seen *logged) (deleted int, err error) {
	if len(seen.ids) == 0 {
		b := &pgx.Batch{}
		b.Queue(`SELECT COALESCE(array_agg(id), '{}'), pg_current_wal_insert_lsn()::text FROM (
				SELECT id FROM outbox WHERE due_at IS NULL AND EXISTS (SELECT FROM pg_replication_slots WHERE `+isSlot+`) ORDER BY id LIMIT $2) ready`, slot, maxLogged).
			QueryRow(func(row pgx.Row) error { return row.Scan(&seen.ids, &seen.lsn) })
		if err := txn.Send(ctx, r.db, nil, b); err != nil || len(seen.ids) == 0 {
			return 0, txn.Classify(err, "read rows of the outbox")
		}
	}
	var confirmed bool
	b := &pgx.Batch{}
	b.Queue(`
		WITH slot AS MATERIALIZED (SELECT FROM pg_replication_slots WHERE `+isSlot+` AND confirmed_flush_lsn >= $2::text::pg_lsn), gone AS (
			DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE id = ANY($3) FOR UPDATE SKIP LOCKED) AND EXISTS (SELECT FROM slot) RETURNING 1)
		SELECT EXISTS (SELECT FROM slot), count(*) FROM gone`, slot, seen.lsn, seen.ids).
		QueryRow(func(row pgx.Row) error { return row.Scan(&confirmed, &deleted) })
	if err := txn.Send(ctx, r.db, nil, b); err != nil {
		return 0, txn.Classify(err, "delete rows of the outbox")
	}
	if confirmed {
		*seen = logged{} // another instance deletes those that it has locked
	}
	return deleted, nil
}

const isSlot = `database = current_database() AND slot_type = 'logical' AND slot_name = $1`
