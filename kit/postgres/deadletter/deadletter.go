// Package deadletter lists, replays and drops messages that could not be processed or sent.
package deadletter

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/keyqueue"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Store is the table.
type Store struct{ db *sqlx.DB }

// New makes a Store.
func New(db *sqlx.DB) *Store { return &Store{db} }

// Keep keeps a message as a dead letter that blocks no key.
func (s *Store) Keep(ctx context.Context, m cqrs.Received, reason string) error {
	return txn.Classify(keyqueue.Insert(ctx, s.db, m, reason, "", 1), "store a dead letter")
}

// CountOf returns how many dead letters a consumer has.
func (s *Store) CountOf(ctx context.Context, consumer string) (n int, err error) {
	err = s.db.GetContext(ctx, &n, `SELECT count(*) FROM dead_letters WHERE consumer = $1 AND dropped_at IS NULL`, consumer)
	return n, txn.Classify(err, "count dead letters")
}

type row struct {
	ID        string    `db:"id"`
	Consumer  string    `db:"consumer"`
	MessageID string    `db:"message_id"`
	Topic     string    `db:"topic"`
	Key       string    `db:"key"`
	Headers   []byte    `db:"headers"`
	Payload   []byte    `db:"payload"`
	Reason    string    `db:"reason"`
	Stack     string    `db:"stack"`
	Attempts  int       `db:"attempts"`
	First     time.Time `db:"first_at"`
	Last      time.Time `db:"last_at"`
}

const columns = `id, consumer, message_id, topic, key, headers, payload, reason, stack, attempts, first_at, last_at`

func (r row) deadLetter() (cqrs.DeadLetter, error) {
	l := cqrs.DeadLetter{
		ID: r.ID, Consumer: r.Consumer, MessageID: r.MessageID, Topic: r.Topic, Key: r.Key, Payload: r.Payload, Reason: r.Reason,
		Stack: r.Stack, Attempts: r.Attempts, First: r.First.UTC(), Last: r.Last.UTC(),
	}
	if err := json.Unmarshal(r.Headers, &l.Headers); err != nil {
		return l, fmt.Errorf("headers of dead letter %s: %w", r.ID, err)
	}
	return l, nil
}

// maxListed is the number of bytes that a list contains of each part of a dead letter. A hundred records of a megabyte, in several requests
// at once, would exceed the memory of the process.
const maxListed = 10_000

// List returns dead letters, newest first, with the first maxListed bytes of each part, and without larger headers. ByID returns all of a
// dead letter.
func (s *Store) List(ctx context.Context, before cqrs.Cursor, limit int) ([]cqrs.DeadLetter, error) {
	var rows []row
	err := s.db.SelectContext(ctx, &rows, `SELECT id, consumer, left(message_id, $4) AS message_id, topic, left(key, $4) AS key, attempts, first_at, last_at, stack,
			substring(payload FROM 1 FOR $4) AS payload, left(reason, $4) AS reason,
			CASE WHEN octet_length(headers::text) > $4 THEN '{}' ELSE headers END AS headers FROM dead_letters
		WHERE dropped_at IS NULL AND (first_at, id) < ($1, $2) ORDER BY first_at DESC, id DESC LIMIT $3`, before.At, before.ID, limit, maxListed)
	if err != nil {
		return nil, txn.Classify(err, "list dead letters")
	}
	deadLetters := make([]cqrs.DeadLetter, len(rows))
	for i, r := range rows {
		if deadLetters[i], err = r.deadLetter(); err != nil {
			return nil, err
		}
	}
	return deadLetters, nil
}

// ByID returns a dead letter. The error wraps cqrs.ErrNotFound if there is none.
func (s *Store) ByID(ctx context.Context, id string) (cqrs.DeadLetter, error) {
	var rows []row
	if err := s.db.SelectContext(ctx, &rows, `SELECT `+columns+` FROM dead_letters WHERE id = $1 AND dropped_at IS NULL`, id); err != nil {
		return cqrs.DeadLetter{}, txn.Classify(err, "read a dead letter")
	}
	if len(rows) == 0 {
		return cqrs.DeadLetter{}, fmt.Errorf("dead letter %s: %w", id, cqrs.ErrNotFound)
	}
	return rows[0].deadLetter()
}

// Replay hands the message of a dead letter to its consumer again, or sends it again if the broker had refused it. The message goes before
// the messages of its key that wait for it. The error wraps cqrs.ErrNotFound if there is no such dead letter.
func (s *Store) Replay(ctx context.Context, id string) error {
	l, err := s.ByID(ctx, id)
	if err != nil {
		return err
	}
	if l.Consumer != relay {
		return s.remove(ctx, id, keyqueue.Replay, `DELETE FROM dead_letters WHERE id = $1 AND dropped_at IS NULL RETURNING `+keyqueue.Columns)
	}
	return s.remove(ctx, id, resend(l), `
		WITH letter AS (DELETE FROM dead_letters WHERE id = $1 AND dropped_at IS NULL RETURNING *), sent AS (
			INSERT INTO outbox (id, message_id, topic, key, shard, payload, headers) OVERRIDING SYSTEM VALUE
			SELECT COALESCE(outbox_id, nextval(pg_get_serial_sequence('outbox', 'id'))), message_id, topic, key, $2, payload, headers::json FROM letter)
		SELECT `+keyqueue.Columns+` FROM letter`, outbox.ShardOf(l.Topic, l.Key))
}

// Drop gives a dead letter's message up. The row stays in the table with the operator and the reason, and the messages behind it are
// released. The error wraps cqrs.ErrNotFound if there is no such dead letter.
func (s *Store) Drop(ctx context.Context, id, by, reason string) error {
	l, err := s.ByID(ctx, id)
	if err != nil {
		return err
	}
	free := keyqueue.Drop
	if l.Consumer == relay {
		free = resend(l)
	}
	return s.remove(ctx, id, free, `
		UPDATE dead_letters SET dropped_at = app_now(), dropped_by = $2, drop_reason = $3, outbox_id = NULL WHERE id = $1 AND dropped_at IS NULL
		RETURNING `+keyqueue.Columns, by, reason)
}

// resend releases the outbox messages behind a message that the broker had refused.
func resend(l cqrs.DeadLetter) func(context.Context, sqlx.ExtContext, keyqueue.DeadLetter) error {
	return func(ctx context.Context, tx sqlx.ExtContext, _ keyqueue.DeadLetter) error {
		return outbox.UnblockKey(ctx, tx, l.Topic, l.Key)
	}
}

// MaxCounted limits the count, so that probes and scrapers do not become slower with the number of dead letters.
const MaxCounted = 10_000

// relay is the consumer of dead letters that the outbox's relay writes.
const relay = "relay"

// remove deletes a dead letter with a statement that returns it, and releases the messages behind it.
func (s *Store) remove(ctx context.Context, id string, free func(context.Context, sqlx.ExtContext, keyqueue.DeadLetter) error, statement string, args ...any) error {
	return txn.InTransaction(ctx, s.db, func(tx sqlx.ExtContext) error {
		var l keyqueue.DeadLetter
		if err := sqlx.GetContext(ctx, tx, &l, statement, append([]any{id}, args...)...); errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("dead letter %s: %w", id, cqrs.ErrNotFound) // another operator was first
		} else if err != nil {
			return txn.Classify(err, "remove dead letter "+id)
		}
		return free(ctx, tx, l)
	})
}

// Count returns the number of dead letters, at most MaxCounted.
func (s *Store) Count(ctx context.Context) (n int, err error) {
	err = s.db.GetContext(ctx, &n, `SELECT count(*) FROM (SELECT FROM dead_letters WHERE dropped_at IS NULL LIMIT $1) found`, MaxCounted)
	return n, txn.Classify(err, "count dead letters")
}
