package postgres

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
)

// Retention is how long what has done its duty is kept.
type Retention struct {
	// Inbox is for processed message ids. A message that comes again later than that is handled again, so it must be longer
	// than Kafka keeps messages and than dead letters wait for their redrive.
	Inbox time.Duration

	// Idempotency is for the answers to requests with an Idempotency-Key.
	Idempotency time.Duration

	// Dropped is for dead letters that somebody dropped. Others are kept until then.
	Dropped time.Duration

	// Topics is for messages in PostgreSQL's topics, handled or not, as Kafka does it.
	Topics time.Duration
}

// sweepBatch is how many rows are deleted at a time: few enough that nobody waits for it.
const sweepBatch = 1000

// Janitor removes what is past its retention. Any number of instances may run one.
type Janitor struct {
	db    *sqlx.DB
	keep  Retention
	every time.Duration
	log   *slog.Logger
}

// NewJanitor makes a janitor that sweeps now and then every so often.
func NewJanitor(db *sqlx.DB, keep Retention, every time.Duration, log *slog.Logger) *Janitor {
	return &Janitor{db, keep, every, log}
}

// Run sweeps until ctx is done.
func (j *Janitor) Run(ctx context.Context) {
	for {
		if n, err := j.Sweep(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("janitor: will try again", "error", err)
		} else if n > 0 {
			j.log.Info("janitor: removed what is past its retention", "rows", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(j.every):
		}
	}
}

// Sweep removes everything that is past its retention now, and tells how many rows that were. Rows that are locked are left for the next time.
// A table that cannot be swept does not keep the others from it.
func (j *Janitor) Sweep(ctx context.Context) (removed int64, err error) {
	for _, sweep := range []struct {
		statement string
		keep      time.Duration
	}{
		{`DELETE FROM inbox WHERE (consumer, message_id) IN (
			SELECT consumer, message_id FROM inbox WHERE received_at < now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)`, j.keep.Inbox},
		{`DELETE FROM idempotency_keys WHERE (owner, key) IN (
			SELECT owner, key FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)`, j.keep.Idempotency},
		{`DELETE FROM dead_letters WHERE id IN (
			SELECT id FROM dead_letters WHERE dropped_at < now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)`, j.keep.Dropped},
		{`DELETE FROM topic_messages WHERE id IN (
			SELECT id FROM topic_messages WHERE created_at < now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)`, j.keep.Topics},
	} {
		n, sweepErr := j.sweep(ctx, sweep.statement, sweep.keep)
		removed, err = removed+n, errors.Join(err, sweepErr)
	}
	return removed, err
}

func (j *Janitor) sweep(ctx context.Context, statement string, keep time.Duration) (removed int64, err error) {
	for n := int64(sweepBatch); n == sweepBatch; removed += n {
		result, err := j.db.ExecContext(ctx, statement, keep.Seconds(), sweepBatch)
		if err != nil {
			return removed, txn.Classify(err, "remove what is past its retention")
		}
		if n, err = result.RowsAffected(); err != nil {
			return removed, err
		}
	}
	return removed, nil
}
