// Delivery of messages that are due. One instance at a time holds a key, by a lease with the database's clock, and the messages of a key are delivered in their order.
// TestRetryKeepsKeyOrder and TestRetryLeaseOfADeadInstance show it.

package keyqueue

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

const (
	leaseFor   = 30 * time.Second // a key is leased for so long: after the death of its instance, another one waits until then
	renewEvery = leaseFor / 4
	maxKeys    = 16  // keys of a consumer that an instance handles at once
	maxInTurn  = 200 // messages of a key before other keys have their turn
	closeGrace = 8 * time.Second
)

// feed hands the waiting messages of one consumer to it.
type feed struct {
	queue    *Queue
	consumer string
	out      chan<- *message.Message
	stopping context.Context //nolint:containedctx // done: nothing more is handed out
	stop     func()
	messages context.Context //nolint:containedctx // of the messages
	keys     chan struct{}   // holds a token for each key that is handled
	running  sync.WaitGroup
	stopped  bool // nothing is leased for it any more; guarded by the queue's lock
}

func (q *Queue) add(f *feed) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.consumers[f.consumer] = f
}

func (q *Queue) stop(consumer string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f := q.consumers[consumer]; f != nil {
		f.stopped = true
		f.stop()
	}
}

func (q *Queue) drop(f *feed) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f.stopped = true
	f.stop()
	if q.consumers[f.consumer] == f {
		delete(q.consumers, f.consumer)
	}
}

// Run hands out due messages until ctx is done.
func (q *Queue) Run(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		wait, err := q.handOut(ctx)
		if err != nil && ctx.Err() == nil {
			log.Warn("key queue: read failed, retrying", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-q.wake:
		case <-time.After(wait):
		}
	}
}

// handOut leases due keys and starts to handle each. It returns the time until the next look.
func (q *Queue) handOut(ctx context.Context) (wait time.Duration, err error) {
	var consumers []string
	var room []int32
	q.mu.Lock()
	for name, f := range q.consumers {
		if n := cap(f.keys) - len(f.keys); n > 0 && !f.stopped {
			consumers, room = append(consumers, name), append(room, int32(n)) //nolint:gosec // small
		}
	}
	q.mu.Unlock()
	if len(consumers) == 0 {
		return q.Poll, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	lease := uuid.NewString()
	wait = q.Poll
	var due []struct {
		Consumer string          `db:"consumer"`
		Key      []byte          `db:"key"`
		Next     sql.NullFloat64 `db:"next"` // in the last row, which has no key: seconds until the next key is due
	}
	err = q.db.SelectContext(ctx, &due, `
		WITH due AS MATERIALIZED (
			SELECT b.consumer, b.key FROM unnest($1::text[], $2::int[]) AS c(consumer, room) CROSS JOIN LATERAL (
				SELECT consumer, key FROM blocked_keys WHERE consumer = c.consumer AND due_at <= app_clock()
				ORDER BY due_at LIMIT c.room FOR UPDATE SKIP LOCKED) b),
		leased AS (UPDATE blocked_keys b SET lease = $3, due_at = app_clock() + make_interval(secs => $4) FROM due
			WHERE b.consumer = due.consumer AND b.key = due.key RETURNING b.consumer, b.key)
		SELECT consumer, key, NULL::float8 AS next FROM leased UNION ALL
		SELECT '', NULL, (SELECT EXTRACT(epoch FROM min(d.due_at) - app_clock())::float8 FROM unnest($1::text[]) AS c(consumer) CROSS JOIN LATERAL (
			SELECT due_at FROM blocked_keys WHERE consumer = c.consumer AND due_at > app_clock() AND due_at < 'infinity' ORDER BY due_at LIMIT 1) d)`,
		consumers, room, lease, leaseFor.Seconds())
	if err != nil {
		return q.Poll, txn.Classify(err, "lease blocked keys")
	}
	for _, d := range due {
		if d.Consumer == "" {
			if d.Next.Valid {
				wait = min(q.Poll, max(time.Millisecond, time.Duration(d.Next.Float64*float64(time.Second))))
			}
			continue
		}
		q.mu.Lock()
		f := q.consumers[d.Consumer]
		if f == nil || f.stopped {
			q.mu.Unlock()
			q.giveBack(d.Consumer, d.Key, lease, 0)
			continue
		}
		f.keys <- struct{}{} // there is room: only this goroutine takes it
		f.running.Add(1)
		q.mu.Unlock()
		go func() {
			defer f.running.Done()
			defer func() { <-f.keys; q.Wake() }()
			f.handle(d.Key, lease)
		}()
	}
	return wait, nil
}

// giveBack ends a lease, so that another instance, or this one, continues after a pause.
func (q *Queue) giveBack(consumer string, key []byte, lease string, pause time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// If it fails the lease ends by itself.
	_, _ = q.db.ExecContext(ctx, `UPDATE blocked_keys SET due_at = app_clock() + make_interval(secs => $4), lease = NULL
		WHERE consumer = $1 AND key = $2 AND lease = $3`, consumer, key, lease, pause.Seconds())
}

// first returns the first message of a leased key; nil if the lease has ended or nothing waits.
func (q *Queue) first(base context.Context, consumer string, key []byte, lease string) (*message.Message, error) {
	ctx, cancel := context.WithTimeout(base, 15*time.Second)
	defer cancel()
	var row struct {
		ID        int64  `db:"id"`
		Attempts  int    `db:"attempts"`
		MessageID []byte `db:"message_id"`
		Headers   []byte `db:"headers"`
		Payload   []byte `db:"payload"`
	}
	err := q.db.GetContext(ctx, &row, `SELECT w.id, b.attempts, w.message_id, w.headers, w.payload FROM blocked_keys b
		JOIN waiting_messages w ON w.consumer = b.consumer AND w.key = b.key
		WHERE b.consumer = $1 AND b.key = $2 AND b.lease = $3 ORDER BY w.id LIMIT 1`, consumer, key, lease)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, txn.Classify(err, "read a waiting message")
	}
	headers, err := unmarshalHeaders(row.Headers)
	if err != nil {
		return nil, err
	}
	msg := message.NewMessage(string(row.MessageID), row.Payload)
	msg.Metadata = headers
	msg.SetContext(cqrs.WithRedelivery(base, cqrs.Redelivery{Position: row.ID, Attempts: row.Attempts, Lease: lease}))
	return msg, nil
}
