// Package outbox keeps messages in the transaction that makes them, and relays them to the broker afterwards.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Shards is into how many parts keys are divided. A shard is relayed by one instance at a time.
const Shards = 16

// ErrTooLarge refuses a message that the broker would refuse; the transaction that wants to send it fails.
var ErrTooLarge = errors.New("message too large")

// metaTopic is metadata that only the outbox reads: it becomes a column and is not sent.
const metaTopic = "outbox_topic"

// Buffer collects the messages of one unit of work.
type Buffer struct{ messages []*message.Message }

type bufferKey struct{}

// WithBuffer begins a buffer.
func WithBuffer(ctx context.Context) (context.Context, *Buffer) {
	b := &Buffer{}
	return context.WithValue(ctx, bufferKey{}, b), b
}

// Discard drops what was collected.
func (b *Buffer) Discard() { b.messages = nil }

// Publisher is the Watermill publisher of the buses: it puts messages into the buffer of their context's unit of work.
type Publisher struct{ maxBytes int }

// NewPublisher makes one that refuses messages of more than maxBytes, headers included.
func NewPublisher(maxBytes int) Publisher { return Publisher{maxBytes} }

// Publish implements message.Publisher. The error wraps ErrTooLarge, or says that there is no unit of work.
func (p Publisher) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		b, ok := msg.Context().Value(bufferKey{}).(*Buffer)
		if !ok {
			return fmt.Errorf("publish %s to %s: called outside a unit of work", msg.Metadata.Get(app.HeaderType), topic)
		}
		if size := Size(msg); size > p.maxBytes {
			return fmt.Errorf("publish %s to %s: %w: %d bytes, at most %d: %w", msg.Metadata.Get(app.HeaderType), topic, ErrTooLarge, size, p.maxBytes, app.ErrPoison)
		}
		msg.Metadata.Set(metaTopic, topic)
		b.messages = append(b.messages, msg)
	}
	return nil
}

// Close implements message.Publisher.
func (Publisher) Close() error { return nil }

// Size is what a message takes on the wire, about: payload, headers, and what a record needs around them.
func Size(msg *message.Message) int {
	n := len(msg.Payload) + 128
	for k, v := range msg.Metadata {
		n += len(k) + len(v) + 4
	}
	return n
}

// Flush writes the buffer through Watermill's SQL publisher, in one statement, and tells how many messages that were.
func (b *Buffer) Flush(tx *sqlx.Tx, logger watermill.LoggerAdapter) (int, error) {
	if len(b.messages) == 0 {
		return 0, nil
	}
	publisher, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: schema{}}, logger)
	if err != nil {
		return 0, err
	}
	if err := publisher.Publish(table, b.messages...); err != nil {
		return 0, txn.Classify(err, fmt.Sprintf("write %d messages to the outbox", len(b.messages)))
	}
	return len(b.messages), nil
}

// ShardOf is the shard of a topic's key.
func ShardOf(topic, key string) int16 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic + "\x00" + key)) // a hash takes everything
	return int16(h.Sum32() % Shards)
}

// Stop withdraws delayed messages in the transaction of ctx. It is part of sagas.Timers.
func Stop(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	tx, err := txn.From(ctx)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM outbox WHERE message_id = ANY($1) AND due_at IS NOT NULL AND consumer IS NULL`, ids)
	return txn.Classify(err, "stop timers")
}

// Free lets the messages of a key go on that were parked behind what the broker refused, unless another such message is left.
func Free(ctx context.Context, tx sqlx.ExtContext, topic, key string) error {
	_, err := tx.ExecContext(ctx, `
		WITH moved AS (UPDATE outbox_epoch SET epoch = epoch + 1)
		UPDATE outbox SET due_at = NULL WHERE topic = $1 AND key = $2 AND due_at = 'infinity' AND consumer IS NULL
			AND NOT EXISTS (SELECT FROM dead_letters WHERE topic = $1 AND key = $2 AND outbox_id IS NOT NULL)`, topic, key)
	return txn.Classify(err, "free what is parked behind "+topic+" "+key)
}

// Backlog is what waits to be relayed.
type Backlog struct {
	Pending int     `db:"pending"` // messages that are due
	Delayed int     `db:"delayed"` // messages that are not
	Parked  int     `db:"parked"`  // messages behind one of their key that could not be sent or handled
	Oldest  float64 `db:"oldest"`  // age of the oldest due one, in seconds
}

// Read counts the backlog.
func Read(ctx context.Context, db *sqlx.DB) (Backlog, error) {
	var b Backlog
	err := db.GetContext(ctx, &b, `SELECT
		count(*) FILTER (WHERE due_at IS NULL) AS pending,
		count(*) FILTER (WHERE due_at < 'infinity') AS delayed,
		count(*) FILTER (WHERE due_at = 'infinity') AS parked,
		COALESCE(EXTRACT(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE due_at IS NULL)), 0)::float8 AS oldest
		FROM outbox`)
	return b, txn.Classify(err, "count the outbox")
}
