package postgres

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
	"github.com/millrace/millrace/kit/saga"
)

// Retention is how long rows are kept that are no longer needed; 0 means for ever.
type Retention struct {
	// Inbox is for ids of processed messages. A message that is delivered again later than that is processed again, so it must be longer than
	// Kafka keeps messages and than dead letters wait to be replayed. Ids of a saga's commands are kept until the saga has ended, because its
	// compensations look them up.
	Inbox time.Duration

	// Idempotency is for the answers to requests with an Idempotency-Key.
	Idempotency time.Duration

	// SagaEvents is for events that no saga waits for. A saga that begins to wait later does not find them.
	SagaEvents time.Duration

	// Dropped is for dropped dead letters. Other dead letters are kept.
	Dropped time.Duration

	// Topics is for messages in PostgreSQL's topics, handled or not, as Kafka does it.
	Topics time.Duration
}

// sweepBatch is the number of rows of one delete, so that locks are short.
const sweepBatch = 1000

// Janitor deletes rows that are past their retention. Several instances may run one.
type Janitor struct {
	db    *sqlx.DB
	keep  Retention
	every time.Duration
	log   *slog.Logger
}

// NewJanitor makes a janitor that sweeps at an interval.
func NewJanitor(db *sqlx.DB, keep Retention, every time.Duration, log *slog.Logger) *Janitor {
	return &Janitor{db, keep, every, log}
}

// Run sweeps until ctx is done.
func (j *Janitor) Run(ctx context.Context) {
	for {
		n, err := j.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			j.log.Warn("janitor: sweep failed, retrying", "error", err)
		}
		if n > 0 {
			j.log.Info("janitor: removed rows past their retention", "rows", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(j.every):
		}
	}
}

// Sweep deletes everything that is past its retention, and returns the number of rows. It skips locked rows until the next time. If a table
// cannot be swept, the others still are.
func (j *Janitor) Sweep(ctx context.Context) (removed int64, err error) {
	for _, s := range []sweep{
		{"inbox", "received_at", heldBySaga, j.keep.Inbox},
		{"idempotency_keys", "created_at", "false", j.keep.Idempotency},
		{"saga_events", "received_at", "false", j.keep.SagaEvents},
		{"dead_letters", "dropped_at", "false", j.keep.Dropped},
		{"topic_messages", "created_at", "false", j.keep.Topics},
	} {
		n, sweepErr := s.run(ctx, j.db)
		removed, err = removed+n, errors.Join(err, sweepErr)
	}
	return removed, err
}

// sweep deletes rows of a table that are past a retention, except rows that are held.
type sweep struct {
	table, time, held string
	keep              time.Duration
}

const ended = `'` + string(saga.StatusCompleted) + `', '` + string(saga.StatusCompensated) + `'`

// heldBySaga tells whether the command of a row belongs to a saga that has not ended, or to a child of one. This service does not know when a saga of another
// service ends; its commands are kept for a year.
const heldBySaga = `CASE WHEN r.saga_id IS NULL THEN false ELSE COALESCE(
	(SELECT s.status NOT IN (` + ended + `) OR EXISTS (SELECT FROM saga_instances root WHERE root.saga_id = s.root_id AND root.status NOT IN (` + ended + `))
		FROM saga_instances s WHERE s.saga_id = r.saga_id),
	r.received_at > app_now() - interval '1 year') END`

// statement reads a batch of rows after a time and a place, and deletes the rows of it that are not held.
func (s sweep) statement() string {
	at := "r." + s.time
	return `WITH old AS MATERIALIZED (
			SELECT r.ctid AS place, ` + at + ` AS at, ` + s.held + ` AS held FROM ` + s.table + ` r
			WHERE ` + at + ` < app_now() - interval '1 second' * $1 AND ` + at + ` >= $2 AND (` + at + ` > $2 OR r.ctid > $3::tid)
			ORDER BY ` + at + `, r.ctid LIMIT $4 FOR UPDATE OF r SKIP LOCKED
		), gone AS (DELETE FROM ` + s.table + ` WHERE ctid = ANY (ARRAY(SELECT place FROM old WHERE NOT held)) RETURNING 1)
		SELECT at, place::text AS place, (SELECT count(*) FROM old) AS seen, (SELECT count(*) FROM gone) AS removed
		FROM old ORDER BY at DESC, place DESC LIMIT 1`
}

func (s sweep) run(ctx context.Context, db *sqlx.DB) (removed int64, err error) {
	if s.keep == 0 {
		return 0, nil
	}
	batch := struct {
		At      time.Time `db:"at"`
		Place   string    `db:"place"`
		Seen    int       `db:"seen"`
		Removed int64     `db:"removed"`
	}{Place: "(0,0)", Seen: sweepBatch}
	for batch.Seen == sweepBatch {
		err := db.GetContext(ctx, &batch, s.statement(), s.keep.Seconds(), batch.At, batch.Place, sweepBatch)
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err != nil {
			return removed, txn.Classify(err, "sweep "+s.table)
		}
		removed += batch.Removed
	}
	return removed, nil
}
