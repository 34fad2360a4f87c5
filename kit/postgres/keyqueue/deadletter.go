// Dead letters. A message of any bytes can be stored, in the transaction that ends its processing. Its key stays blocked only if the caller wants that.
// TestDeadLetterOfAnyBytes and TestDeadLettersOfTwoKeysWithOneMessageID show it.

package keyqueue

import (
	"context"
	"database/sql"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// DeadLetter stores a message as a dead letter in the unit of work of ctx. Hold says that its key stays blocked until the dead letter is
// replayed or dropped; otherwise the message behind it is next. The bytes of the message cannot make it fail. The error is ErrLeaseLost if
// another instance has the key now.
func (q *Queue) DeadLetter(ctx context.Context, m cqrs.Received, reason, stack string, hold bool) (id string, err error) {
	tx, err := txn.FromContext(ctx)
	if err != nil {
		return "", err
	}
	id, err = q.deadLetter(ctx, tx, m, reason, stack, hold)
	return id, txn.Classify(err, "store a dead letter")
}

func (q *Queue) deadLetter(ctx context.Context, tx *sqlx.Tx, m cqrs.Received, reason, stack string, hold bool) (id string, err error) {
	r, redelivered := cqrs.RedeliveryFromContext(ctx)
	if redelivered {
		if err := lockLease(ctx, tx, m.Key, r.Lease); err != nil {
			return "", err
		}
	}
	if err := Insert(ctx, tx, m, reason, stack, r.Attempts+1); err != nil {
		return "", err
	}
	switch {
	case redelivered && hold:
		_, err = tx.ExecContext(ctx, `UPDATE blocked_keys SET due_at = 'infinity', lease = NULL WHERE consumer = $1 AND key = $2`, m.Key.Consumer, stored(m.Key))
	case redelivered:
		err = remove(ctx, tx, m.Key, r.Position)
	case hold:
		err = q.block(ctx, tx, m, 0, `'infinity'`)
	}
	return receipt(m), err
}

// Insert stores a dead letter: the message as bytes, and escaped texts for people. If the same message becomes a dead letter again, its
// attempts add up, and a dropped dead letter is open again.
func Insert(ctx context.Context, tx sqlx.ExtContext, m cqrs.Received, reason, stack string, attempts int) error {
	shown := map[string]string{}
	for name, value := range m.Headers {
		shown[Escape(name)] = Escape(value)
	}
	headers, err := json.Marshal(shown)
	if err != nil {
		return err
	}
	raw, err := marshalHeaders(m.Headers)
	if err != nil {
		return err
	}
	payload := m.Payload
	if payload == nil {
		payload = []byte{}
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, stack, attempts, first_at, last_at,
			raw_key, raw_source, raw_id, raw_headers, tombstone)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
			COALESCE((SELECT first_at FROM blocked_keys WHERE consumer = $2 AND key = $11 AND $16), app_clock()), app_clock(), $11, $12, $13, $14, $15)
		ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, stack = excluded.stack, last_at = excluded.last_at,
			attempts = GREATEST(excluded.attempts, dead_letters.attempts + 1), raw_key = excluded.raw_key, raw_headers = excluded.raw_headers,
			headers = excluded.headers, payload = excluded.payload, tombstone = excluded.tombstone,
			first_at = CASE WHEN dead_letters.dropped_at IS NULL THEN dead_letters.first_at ELSE excluded.first_at END,
			dropped_at = NULL, dropped_by = NULL, drop_reason = NULL, outbox_id = NULL`,
		receipt(m), m.Key.Consumer, Escape(m.ID), m.Topic, Escape(m.Headers[cqrs.HeaderKey]), string(headers), payload, Escape(reason), Escape(stack), attempts,
		stored(m.Key), []byte(m.Source), []byte(m.ID), raw, m.Payload == nil, attempts > 1)
	return err
}

// Escape returns text that every column can store and every page can show: invisible characters, and bytes that are not UTF-8, are escaped as
// in a Go string.
func Escape(text string) string {
	plain := utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) < 0
	if plain {
		return text
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// DeadLetter is the part of a dead letter that replay and drop need.
type DeadLetter struct {
	ID         string `db:"id"`
	Consumer   string `db:"consumer"`
	Topic      string `db:"topic"`
	Payload    []byte `db:"payload"`
	RawKey     []byte `db:"raw_key"`
	RawSource  []byte `db:"raw_source"`
	RawID      []byte `db:"raw_id"`
	RawHeaders []byte `db:"raw_headers"`
	Tombstone  bool   `db:"tombstone"`
}

// Columns are the columns of a DeadLetter.
const Columns = `id, consumer, topic, payload, raw_key, raw_source, raw_id, raw_headers, tombstone`

// first says that a message is the first one of its key.
const first = ` AND NOT EXISTS (SELECT FROM waiting_messages f WHERE f.consumer = w.consumer AND f.key = w.key AND f.id < w.id)`

// Replay puts the message of a dead letter back: first of its key if the key is blocked by it, else behind the waiting messages. The queue
// hands it to its consumer.
func Replay(ctx context.Context, tx sqlx.ExtContext, l DeadLetter) error {
	result, err := tx.ExecContext(ctx, `UPDATE blocked_keys b SET attempts = 0, first_at = NULL, due_at = app_clock(), lease = NULL
		FROM waiting_messages w WHERE w.receipt = $1 AND b.consumer = w.consumer AND b.key = w.key`+first, l.ID)
	if err != nil {
		return txn.Classify(err, "replay dead letter "+l.ID)
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return txn.Classify(err, "replay dead letter "+l.ID)
	}
	_, err = tx.ExecContext(ctx, `
		WITH blocked AS (INSERT INTO blocked_keys (consumer, key, due_at) VALUES ($2, $3, app_clock())
			ON CONFLICT (consumer, key) DO UPDATE SET due_at = blocked_keys.due_at)
		INSERT INTO waiting_messages (receipt, consumer, key, topic, source, message_id, headers, payload) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (receipt) DO NOTHING`,
		l.ID, l.Consumer, l.RawKey, l.Topic, l.RawSource, l.RawID, string(l.RawHeaders), sql.Null[[]byte]{V: l.Payload, Valid: !l.Tombstone})
	return txn.Classify(err, "replay dead letter "+l.ID)
}

// Drop gives the message of a dead letter up. If it blocks its key, the messages behind it are released.
func Drop(ctx context.Context, tx sqlx.ExtContext, l DeadLetter) error {
	_, err := tx.ExecContext(ctx, `SELECT FROM blocked_keys WHERE consumer = $1 AND key = $2 FOR UPDATE`, l.Consumer, l.RawKey)
	if err == nil {
		_, err = tx.ExecContext(ctx, `UPDATE blocked_keys b SET attempts = 0, first_at = NULL, due_at = app_clock(), lease = NULL
			FROM waiting_messages w WHERE w.receipt = $1 AND b.consumer = w.consumer AND b.key = w.key`+first, l.ID)
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, `DELETE FROM waiting_messages WHERE receipt = $1`, l.ID)
	}
	if err == nil {
		err = free(ctx, tx, l.Consumer, l.RawKey)
	}
	return txn.Classify(err, "unblock the key of dead letter "+l.ID)
}
