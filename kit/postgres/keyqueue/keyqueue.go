// Package keyqueue keeps the order of keys whose messages fail. A message that cannot be processed yet is stored as it was received, and
// blocks its key for its consumer: later messages of the key are stored behind it. When the message is due, it is handed to the same consumer
// from the table, and the messages behind it follow. No message is published again, so a topic may be read-only, and other consumers of the
// topic get no duplicates. Messages of other keys are not affected.
package keyqueue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// ErrLeaseLost says that this instance did not renew its lease of the key in time, and another instance has the key now.
var ErrLeaseLost = fmt.Errorf("another instance handles the key: %w", cqrs.ErrPermanent)

// Queue is the tables blocked_keys and waiting_messages.
type Queue struct {
	db      *sqlx.DB
	lookups txn.Batcher[cqrs.MessageKey, bool]
	wake    chan struct{}

	mu        sync.Mutex
	consumers map[string]*feed

	// Poll is how often the queue looks for messages that another instance has stored or replayed. Default 1 s.
	Poll time.Duration
}

// New makes a Queue. Run hands out due messages.
func New(db *sqlx.DB) *Queue {
	q := &Queue{db: db, wake: make(chan struct{}, 1), consumers: map[string]*feed{}, Poll: time.Second}
	q.lookups.Do, q.lookups.Max, q.lookups.Parallel = q.lookUp, 1000, 1
	return q
}

// Wake makes the queue look for messages that are due now. It does not block.
func (q *Queue) Wake() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// lookUp tells which of some keys are blocked; hardly ever is one. Keys are bytes, so no key can make the query fail for the others.
func (q *Queue) lookUp(keys []cqrs.MessageKey) ([]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	consumers, names, out := make([]string, len(keys)), make([][]byte, len(keys)), make([]bool, len(keys))
	for i, k := range keys {
		consumers[i], names[i] = k.Consumer, stored(k)
	}
	b := &pgx.Batch{}
	b.Queue(`SELECT w.n::int FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS w(consumer, key, n)
		CROSS JOIN LATERAL (SELECT FROM blocked_keys WHERE consumer = w.consumer AND key = w.key OFFSET 0) b`, consumers, names).Query(func(rows pgx.Rows) error {
		var n int
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error {
			out[n-1] = true
			return nil
		})
		return err
	})
	return out, txn.Classify(txn.Send(ctx, q.db, nil, b), "look for blocked keys")
}

// Enqueue stores a message that the broker has delivered if its key is blocked. False: it may be handled.
func (q *Queue) Enqueue(ctx context.Context, m cqrs.Received) (enqueued bool, err error) {
	blocked, err := q.lookups.Call(ctx, m.Key)
	if err != nil || !blocked {
		return false, err
	}
	// The message may be in flight beside the one before it, which has not been stored yet: stored first, this one would be handled first.
	if err := cqrs.TurnFromContext(ctx).Wait(ctx); err != nil {
		return false, err
	}
	err = q.within(ctx, "store a message of a blocked key", func(tx *sqlx.Tx) error {
		enqueued = false
		var one int
		// The lock keeps the key blocked until this message is stored behind the others.
		err := tx.GetContext(ctx, &one, `SELECT 1 FROM blocked_keys WHERE consumer = $1 AND key = $2 FOR UPDATE`, m.Key.Consumer, stored(m.Key))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		enqueued = true
		return put(ctx, tx, m)
	})
	return enqueued, err
}

// RetryAfter stores a message that failed, so that it is handed to its consumer again after a delay. Until then its key is blocked.
func (q *Queue) RetryAfter(ctx context.Context, m cqrs.Received, delay time.Duration) error {
	defer q.Wake() // it may be the next one that is due
	return q.within(ctx, "schedule a retry", func(tx *sqlx.Tx) error {
		if r, ok := cqrs.RedeliveryFromContext(ctx); ok {
			_, err := tx.ExecContext(ctx, `UPDATE blocked_keys
				SET attempts = attempts + 1, first_at = COALESCE(first_at, app_now()), due_at = app_clock() + make_interval(secs => $4), lease = NULL
				WHERE consumer = $1 AND key = $2 AND lease = $3`, m.Key.Consumer, stored(m.Key), r.Lease, delay.Seconds())
			return err // without the lease there is nothing to do: another instance handles the message
		}
		return q.block(ctx, tx, m, 1, "app_clock() + make_interval(secs => $4)", delay.Seconds())
	})
}

// Complete removes a processed message, and unblocks its key if no other message waits. It also removes a dead letter of the message: a
// replay may have blocked the key while the message failed, or a rebuild could not handle the event.
func (q *Queue) Complete(ctx context.Context, m cqrs.Received) error {
	r, ok := cqrs.RedeliveryFromContext(ctx)
	if !ok {
		return nil
	}
	return q.within(ctx, "remove a message that was handled", func(tx *sqlx.Tx) error {
		if err := lockLease(ctx, tx, m.Key, r.Lease); err != nil {
			if errors.Is(err, ErrLeaseLost) {
				return nil // that instance finds it in the inbox
			}
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM dead_letters WHERE id = $1 AND dropped_at IS NULL`, receipt(m)); err != nil {
			return err
		}
		return remove(ctx, tx, m.Key, r.Position)
	})
}

// lockLease locks a key that this instance has leased. No other message can be added to the key until the transaction ends.
func lockLease(ctx context.Context, tx *sqlx.Tx, k cqrs.MessageKey, lease string) error {
	var one int
	err := tx.GetContext(ctx, &one, `SELECT 1 FROM blocked_keys WHERE consumer = $1 AND key = $2 AND lease = $3 FOR UPDATE`, k.Consumer, stored(k), lease)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrLeaseLost
	}
	return err
}

// remove deletes the first message of a locked key. The attempts of the next message count from zero.
func remove(ctx context.Context, tx sqlx.ExtContext, k cqrs.MessageKey, position int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM waiting_messages WHERE id = $1`, position); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE blocked_keys SET attempts = 0, first_at = NULL WHERE consumer = $1 AND key = $2`, k.Consumer, stored(k)); err != nil {
		return err
	}
	return free(ctx, tx, k.Consumer, stored(k))
}

// free unblocks a locked key if no message waits.
func free(ctx context.Context, tx sqlx.ExtContext, consumer string, key []byte) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM blocked_keys b WHERE consumer = $1 AND key = $2
		AND NOT EXISTS (SELECT FROM waiting_messages w WHERE w.consumer = b.consumer AND w.key = b.key)`, consumer, key)
	return err
}

// MaxCounted limits the counts, so that probes and scrapers do not become slower with the backlog.
const MaxCounted = 10_000

// Count returns the number of blocked keys of each consumer and the number of waiting messages, each at most MaxCounted.
func (q *Queue) Count(ctx context.Context) (blocked map[string]int, waiting int, err error) {
	if err := q.db.GetContext(ctx, &waiting, `SELECT count(*) FROM (SELECT FROM waiting_messages LIMIT $1) found`, MaxCounted); err != nil {
		return nil, 0, txn.Classify(err, "count waiting messages")
	}
	var rows []struct {
		Consumer string `db:"consumer"`
		N        int    `db:"n"`
	}
	if err := q.db.SelectContext(ctx, &rows, `SELECT consumer, count(*) AS n FROM (SELECT consumer FROM blocked_keys LIMIT $1) found GROUP BY consumer`, MaxCounted); err != nil {
		return nil, 0, txn.Classify(err, "count blocked keys")
	}
	blocked = map[string]int{}
	for _, r := range rows {
		blocked[r.Consumer] = r.N
	}
	return blocked, waiting, nil
}

func (q *Queue) within(ctx context.Context, doing string, work func(tx *sqlx.Tx) error) error {
	tx, err := q.db.BeginTxx(ctx, nil)
	if err != nil {
		return txn.Classify(err, doing)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if err := work(tx); err != nil {
		return txn.Classify(err, doing)
	}
	return txn.Classify(tx.Commit(), doing)
}
