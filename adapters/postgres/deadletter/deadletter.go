// Package deadletter keeps messages that could not be handled, with everything that a person needs to judge them.
package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/outbox"
	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Store is the table.
type Store struct{ db *sqlx.DB }

// New makes a Store.
func New(db *sqlx.DB) *Store { return &Store{db} }

// Put keeps a letter, in a transaction. The same message of the same consumer, dead again, counts on.
func Put(ctx context.Context, tx sqlx.ExtContext, l app.DeadLetter) error {
	headers, err := json.Marshal(l.Headers)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, line, headers, payload, reason, stack, attempts, first_at, last_at)
		VALUES ($1, $2, $3, $4, $5, NULLIF($6, ''), $7::jsonb, COALESCE($8::bytea, ''), $9, $10, $11, $12, $13)
		ON CONFLICT (consumer, message_id) DO UPDATE SET reason = excluded.reason, stack = excluded.stack, line = excluded.line,
			attempts = GREATEST(excluded.attempts, dead_letters.attempts + 1), last_at = excluded.last_at, dropped_at = NULL`,
		l.ID, l.Consumer, l.MessageID, l.Topic, l.Key, l.Line, string(headers), l.Payload, l.Reason, l.Stack, l.Attempts, l.First, l.Last)
	return txn.Classify(err, "keep a dead letter")
}

// PutOnce keeps a letter, unless the consumer has one of the same message, which may block a key.
func (s *Store) PutOnce(ctx context.Context, l app.DeadLetter) error {
	headers, err := json.Marshal(l.Headers)
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(ctx, `
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, stack, attempts, first_at, last_at)
		SELECT $1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, 1, now(), now()
		WHERE NOT EXISTS (SELECT FROM dead_letters WHERE consumer = $2 AND message_id = $3 AND dropped_at IS NULL)`,
		l.ID, l.Consumer, l.MessageID, l.Topic, l.Key, string(headers), []byte(l.Payload), l.Reason, l.Stack)
	return txn.Classify(err, "keep a dead letter")
}

// CountOf returns how many dead letters a consumer has.
func (s *Store) CountOf(ctx context.Context, consumer string) (n int, err error) {
	err = s.db.GetContext(ctx, &n, `SELECT count(*) FROM dead_letters WHERE consumer = $1 AND dropped_at IS NULL`, consumer)
	return n, txn.Classify(err, "count dead letters")
}

// Advance lets the next message of a line come, if a message is its head; a line in which nobody waits ends.
func Advance(ctx context.Context, tx sqlx.ExtContext, p app.Place, messageID string) error {
	// By a statement of its own: the next one then sees who has joined the line while this one waited for its lock.
	if _, err := tx.ExecContext(ctx, `SELECT FROM lines WHERE consumer = $1 AND line = $2 FOR UPDATE`, p.Consumer, p.Line); err != nil {
		return txn.Classify(err, "lock a line")
	}
	_, err := tx.ExecContext(ctx, `
		WITH line AS (SELECT consumer, line FROM lines WHERE consumer = $1 AND line = $2 AND head = $3 FOR UPDATE),
		next AS (
			SELECT o.id, o.message_id FROM outbox o JOIN line l ON o.consumer = l.consumer AND o.line = l.line
			WHERE o.due_at = 'infinity' ORDER BY o.id LIMIT 1),
		freed AS (UPDATE outbox SET due_at = NULL, id = DEFAULT FROM next WHERE outbox.id = next.id),
		moved AS (
			UPDATE lines SET head = next.message_id, attempts = 0, first_at = NULL FROM line, next
			WHERE lines.consumer = line.consumer AND lines.line = line.line)
		DELETE FROM lines USING line WHERE lines.consumer = line.consumer AND lines.line = line.line AND NOT EXISTS (SELECT FROM next)`,
		p.Consumer, p.Line, messageID)
	return txn.Classify(err, "let the next in line come")
}

type row struct {
	ID        string    `db:"id"`
	Consumer  string    `db:"consumer"`
	MessageID string    `db:"message_id"`
	Topic     string    `db:"topic"`
	Key       string    `db:"key"`
	Line      string    `db:"line"`
	Headers   []byte    `db:"headers"`
	Payload   []byte    `db:"payload"`
	Reason    string    `db:"reason"`
	Stack     string    `db:"stack"`
	Attempts  int       `db:"attempts"`
	First     time.Time `db:"first_at"`
	Last      time.Time `db:"last_at"`
}

const columns = `id, consumer, message_id, topic, key, COALESCE(line, '') AS line, headers, payload, reason, stack, attempts, first_at, last_at`

func (r row) letter() (app.DeadLetter, error) {
	l := app.DeadLetter{
		ID: r.ID, Consumer: r.Consumer, MessageID: r.MessageID, Topic: r.Topic, Key: r.Key, Line: r.Line, Payload: r.Payload, Reason: r.Reason,
		Stack: r.Stack, Attempts: r.Attempts, First: r.First.UTC(), Last: r.Last.UTC(),
	}
	if err := json.Unmarshal(r.Headers, &l.Headers); err != nil {
		return l, fmt.Errorf("headers of dead letter %s: %w", r.ID, err)
	}
	return l, nil
}

// List returns letters, newest first.
func (s *Store) List(ctx context.Context, before app.Cursor, limit int) ([]app.DeadLetter, error) {
	var rows []row
	err := s.db.SelectContext(ctx, &rows, `SELECT `+columns+` FROM dead_letters
		WHERE dropped_at IS NULL AND (first_at, id) < ($1, $2) ORDER BY first_at DESC, id DESC LIMIT $3`, before.At, before.ID, limit)
	if err != nil {
		return nil, txn.Classify(err, "list dead letters")
	}
	letters := make([]app.DeadLetter, len(rows))
	for i, r := range rows {
		if letters[i], err = r.letter(); err != nil {
			return nil, err
		}
	}
	return letters, nil
}

// ByID returns one. The error wraps app.ErrNotFound if there is none.
func (s *Store) ByID(ctx context.Context, id string) (app.DeadLetter, error) {
	var rows []row
	if err := s.db.SelectContext(ctx, &rows, `SELECT `+columns+` FROM dead_letters WHERE id = $1 AND dropped_at IS NULL`, id); err != nil {
		return app.DeadLetter{}, txn.Classify(err, "read a dead letter")
	}
	if len(rows) == 0 {
		return app.DeadLetter{}, fmt.Errorf("dead letter %s: %w", id, app.ErrNotFound)
	}
	return rows[0].letter()
}

// Redrive puts a letter's message back into the outbox and removes the letter. It takes its old place before the messages of
// its key that wait for it. The error wraps app.ErrNotFound if there is no such letter.
func (s *Store) Redrive(ctx context.Context, id string) error {
	l, err := s.ByID(ctx, id)
	if err != nil {
		return err
	}
	if l.Consumer != relay {
		l.Headers[app.HeaderFor] = l.Consumer
	}
	headers, err := json.Marshal(l.Headers)
	if err != nil {
		return err
	}
	return s.remove(ctx, l, func(tx sqlx.ExtContext) error {
		if l.Line == "" {
			return nil
		}
		_, err := tx.ExecContext(ctx, `UPDATE lines SET attempts = 0, first_at = NULL WHERE consumer = $1 AND line = $2 AND head = $3`, l.Consumer, l.Line, l.MessageID)
		return err
	}, `
		WITH letter AS (DELETE FROM dead_letters WHERE id = $1 AND dropped_at IS NULL RETURNING *)
		INSERT INTO outbox (id, message_id, topic, key, shard, payload, headers) OVERRIDING SYSTEM VALUE
		SELECT COALESCE(outbox_id, nextval(pg_get_serial_sequence('outbox', 'id'))), message_id, topic, key, $2, payload, $3::json FROM letter`,
		id, outbox.ShardOf(l.Topic, l.Key), string(headers))
}

// Drop gives a letter's message up. It stays in the table, with who dropped it and why; what waited behind it goes on. The error
// wraps app.ErrNotFound if there is no such letter.
func (s *Store) Drop(ctx context.Context, id, by, reason string) error {
	l, err := s.ByID(ctx, id)
	if err != nil {
		return err
	}
	return s.remove(ctx, l, func(tx sqlx.ExtContext) error {
		return Advance(ctx, tx, app.Place{Consumer: l.Consumer, Line: l.Line}, l.MessageID)
	}, `
		UPDATE dead_letters SET dropped_at = now(), dropped_by = $2, drop_reason = $3, outbox_id = NULL WHERE id = $1 AND dropped_at IS NULL`,
		id, by, reason)
}

// relay is the consumer in whose name the outbox's relay writes letters.
const relay = "relay"

// remove takes a letter away by a statement, and sees to what waits behind it: in its line at a consumer, or in the outbox.
func (s *Store) remove(ctx context.Context, l app.DeadLetter, line func(sqlx.ExtContext) error, statement string, args ...any) error {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return txn.Classify(err, "take a dead letter away")
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	result, err := tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return txn.Classify(err, "take dead letter "+l.ID+" away")
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("dead letter %s: %w", l.ID, app.ErrNotFound)) // somebody else was first
	}
	if err := line(tx); err != nil {
		return txn.Classify(err, "free the line behind dead letter "+l.ID)
	}
	if l.Consumer == relay {
		err = outbox.Free(ctx, tx, l.Topic, l.Key)
	}
	if err != nil {
		return err
	}
	return txn.Classify(tx.Commit(), "commit")
}

// Count returns how many there are, and how many lines there are at each consumer.
func (s *Store) Count(ctx context.Context) (letters int, lines map[string]int, err error) {
	if err := s.db.GetContext(ctx, &letters, `SELECT count(*) FROM dead_letters WHERE dropped_at IS NULL`); err != nil {
		return 0, nil, txn.Classify(err, "count dead letters")
	}
	var rows []struct {
		Consumer string `db:"consumer"`
		N        int    `db:"n"`
	}
	if err := s.db.SelectContext(ctx, &rows, `SELECT consumer, count(*) AS n FROM lines GROUP BY consumer`); err != nil {
		return 0, nil, txn.Classify(err, "count lines")
	}
	lines = map[string]int{}
	for _, r := range rows {
		lines[r.Consumer] = r.N
	}
	return letters, lines, nil
}
