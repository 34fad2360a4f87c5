// Timers: messages that become due later, in the relay, and without it for Debezium. TestDelayedMessagesBecomeDue and TestStoppedTimersDoNotFire show it.

package outbox

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// RunTimers replaces Run where Debezium sends the messages: it reads the outbox's rows from the database's log (deploy/debezium). RunTimers
// makes delayed messages ready when they are due, which Debezium sees as new rows, and deletes ready rows after the replication slot has
// confirmed their commit. Without a slot of this name it deletes nothing. Markers is the name of a topic without consumers.
func (r *Relay) RunTimers(ctx context.Context, slot, markers string) {
	var parts sync.WaitGroup
	parts.Go(func() { r.promote(ctx) })
	parts.Go(func() {
		var seen confirmedRows
		for ctx.Err() == nil {
			n, err := r.removeConfirmed(ctx, slot, markers, &seen)
			if err != nil && ctx.Err() == nil {
				r.log.Warn("relay: cannot delete confirmed rows", "error", err)
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

// confirmedRows are rows whose commits precede a position in the log.
type confirmedRows struct {
	ids    []int64
	lsn    string
	marker time.Time     // when the next marker is due
	pause  time.Duration // after that
}

// The first marker is sent when the slot has not confirmed the position for markerAfter. The pauses between markers double up to markerMost.
const (
	markerAfter = 5 * time.Second
	markerMost  = 5 * time.Minute
)

// maxLogged is the maximum number of rows that wait for the slot's confirmation.
const maxLogged = 20_000

// removeConfirmed notes which rows are ready and how far the log reaches, and deletes them once the slot has confirmed the log up to there. The
// ids alone would not do: a transaction with lower ids may commit later. The position is where the log is inserted at, not what was written
// to the disk, because a commit with synchronous_commit = off is visible before it is written. It is read after the snapshot of its statement
// was taken, so the commits of all rows that the statement sees are before it.
func (r *Relay) removeConfirmed(ctx context.Context, slot, markers string, seen *confirmedRows) (deleted int, err error) {
	if len(seen.ids) == 0 {
		b := &pgx.Batch{}
		b.Queue(`SELECT COALESCE(array_agg(id), '{}'), pg_current_wal_insert_lsn()::text FROM (
				SELECT id FROM outbox WHERE due_at IS NULL AND EXISTS (SELECT FROM pg_replication_slots WHERE `+isSlot+`) ORDER BY id LIMIT $2) ready`, slot, maxLogged).
			QueryRow(func(row pgx.Row) error { return row.Scan(&seen.ids, &seen.lsn) })
		if err := txn.Send(ctx, r.db, nil, b); err != nil || len(seen.ids) == 0 {
			return 0, txn.Classify(err, "read rows of the outbox")
		}
		seen.marker, seen.pause = time.Now().Add(markerAfter), markerAfter
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
		*seen = confirmedRows{} // another instance deletes those that it has locked
		return deleted, nil
	}
	return 0, r.marker(ctx, seen, markers)
}

// marker writes a message for a topic without consumers, and deletes it in the same transaction, so that only the log contains it. Debezium
// confirms the positions before a message that it has sent. While no message is written, it would never confirm the last rows. The second
// marker makes it confirm the first one, which is after the position.
func (r *Relay) marker(ctx context.Context, seen *confirmedRows, topic string) error {
	if time.Now().Before(seen.marker) {
		return nil
	}
	seen.marker, seen.pause = time.Now().Add(seen.pause), min(2*seen.pause, markerMost)
	b := &pgx.Batch{} // one transaction
	b.Queue(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ($1, $2, 'marker', $3, 'marker', '{}')`, uuid.NewString(), topic, ShardOf(topic, "marker"))
	b.Queue(`DELETE FROM outbox WHERE id = (SELECT currval(pg_get_serial_sequence('outbox', 'id')))`)
	return txn.Classify(txn.Send(ctx, r.db, nil, b), "write a marker into the log")
}

const isSlot = `database = current_database() AND slot_type = 'logical' AND slot_name = $1`

// promoteEvery is the shortest pause between two looks for due timers.
const promoteEvery = 20 * time.Millisecond

// promote makes delayed messages ready when they are due. Every relay does this; a relay skips rows that another one has locked.
func (r *Relay) promote(ctx context.Context) {
	for ctx.Err() == nil {
		r.nextLook.Store(math.MaxInt64) // rows written from now on may not be seen
		var next struct {
			Promoted int      `db:"promoted"`
			Wait     *float64 `db:"wait"` // seconds until the next one is due
		}
		err := r.db.GetContext(ctx, &next, `
			WITH due AS (
				SELECT id FROM outbox WHERE due_at > '-infinity' AND due_at <= app_now() ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED
			), promoted AS (UPDATE outbox SET due_at = NULL, id = DEFAULT FROM due WHERE outbox.id = due.id RETURNING 1)
			SELECT (SELECT count(*) FROM promoted) AS promoted,
				(SELECT EXTRACT(epoch FROM min(due_at) - app_now())::float8 FROM outbox WHERE due_at > app_now() AND due_at < 'infinity') AS wait`)
		wait := r.options.Poll
		switch {
		case err != nil:
			if ctx.Err() == nil {
				r.log.Warn("relay: cannot promote due timers, retrying", "error", err)
			}
		case next.Promoted > 0:
			r.Wake()
			if !r.HoldsAll() {
				_ = notify(ctx, r.db, allParts) // at worst the other relays find the rows at their next poll
			}
			continue
		case next.Wait != nil:
			wait = max(min(wait, time.Duration(*next.Wait*float64(time.Second))), 5*time.Millisecond)
		}
		r.nextLook.Store(time.Now().Add(wait).UnixNano())
		sleep(ctx, r.timers, wait)
		pause(ctx, promoteEvery) // timers are not so exact
	}
}
