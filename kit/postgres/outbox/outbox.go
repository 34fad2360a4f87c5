// Package outbox is a transactional outbox for Watermill. Messages are stored in the transaction that makes them, by watermill-sql's
// publisher with Schema, or by Publisher in a unit of work. A Relay sends them to a broker through any Watermill publisher: messages of each
// key in order, each message at least once. Several relays share the work by leases.
package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Shards is the number of parts into which keys are divided. One instance at a time relays a shard. Their numbers begin with FirstShard: below are those of
// a former version, which divided keys in another way.
const (
	Shards     = 16
	FirstShard = 16
)

// ErrTooLarge refuses a message that the broker would refuse. The transaction that publishes it fails.
var ErrTooLarge = errors.New("message too large")

// Insert makes the Watermill publisher that inserts messages into the outbox: watermill-sql's, with the given executor and schema. The executor
// does not execute what the publisher passes to it: the statement is sent with those of the unit of work.
type Insert func(tx wsql.ContextExecutor, schema wsql.SchemaAdapter) (message.Publisher, error)

// Publisher is the Watermill publisher of the buses. It writes messages when the unit of work of their context commits.
type Publisher struct {
	maxBytes int
	insert   Insert
}

// NewPublisher makes a publisher that refuses messages of more than maxBytes, headers included; 0 means 1,000,000. Insert nil means
// watermill-sql's publisher.
func NewPublisher(maxBytes int, insert Insert) Publisher {
	if insert == nil {
		insert = func(tx wsql.ContextExecutor, schema wsql.SchemaAdapter) (message.Publisher, error) {
			return wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: schema}, watermill.NopLogger{})
		}
	}
	return Publisher{cmp.Or(maxBytes, 1_000_000), insert}
}

// Publish implements message.Publisher. The error wraps ErrTooLarge, or says that there is no unit of work.
func (p Publisher) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		if txn.UnitFromContext(msg.Context()) == nil {
			return fmt.Errorf("publish %s to %s: called outside a unit of work", msg.Metadata.Get(cqrs.HeaderType), topic)
		}
		size := Size(msg)
		if size > p.maxBytes {
			return fmt.Errorf("publish %s to %s: %w: %d bytes, at most %d: %w", msg.Metadata.Get(cqrs.HeaderType), topic, ErrTooLarge, size, p.maxBytes, cqrs.ErrPermanent)
		}
		if err := inserts.Write(msg.Context(), &Message{Topic: topic, Message: msg, size: size, insert: p.insert}); err != nil {
			return err
		}
	}
	return nil
}

// Close implements message.Publisher.
func (Publisher) Close() error { return nil }

// Size estimates the bytes of a message's record: payload, headers, and overhead.
func Size(msg *message.Message) int {
	n := len(msg.Payload) + 128
	for k, v := range msg.Metadata {
		n += len(k) + len(v) + 4
	}
	return n
}

// Message is a message that a unit of work writes. Its ID is the id of its row, set when the unit commits.
type Message struct {
	ID      int64
	Topic   string
	Message *message.Message

	handed bool   // a handler has it, by a claim
	size   int    // on the wire, about, in bytes
	insert Insert // the same for all messages of a process
}

func (w *Message) shard() int16 { return ShardOf(w.Topic, w.Message.Metadata[cqrs.HeaderKey]) }

// inserts writes messages through Watermill's SQL publisher, those of all units that commit together by one call. It comes after the
// statements of other tables: a transaction that waited for a lock after its rows had their numbers would commit when the relay has sent later
// rows of other keys, and the relay, which reads on from there, would send the next message of the key first.
var inserts = &txn.Statement[*Message]{
	Doing: "write messages to the outbox", Rank: 900,
	Query: func(rows []*Message) (string, []any, error) {
		messages, topics := make([]*message.Message, len(rows)), make([]string, len(rows))
		for i, r := range rows {
			messages[i], topics[i] = r.Message, r.Topic
		}
		c := &captured{}
		publisher, err := rows[0].insert(c, Schema{topics: topics})
		if err != nil {
			return "", nil, err
		}
		err = publisher.Publish(table, messages...)
		return c.query, c.args, err
	},
	Read: func(rows []*Message, result pgx.Rows) error {
		ids := make([]int64, 0, len(rows))
		var id int64
		_, err := pgx.ForEachRow(result, []any{&id}, func() error {
			ids = append(ids, id)
			return nil
		})
		if err != nil || len(ids) != len(rows) {
			return err
		}
		for i, r := range rows {
			r.ID = ids[i] // numbered in their order
		}
		return nil
	},
}

// captured records the statement that Watermill's publisher would execute, so that it can be sent together with the unit's other statements.
type captured struct {
	wsql.ContextExecutor // for what is not used here
	query                string
	args                 []any
}

// ExecContext implements wsql.ContextExecutor.
func (c *captured) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	c.query, c.args = query, args
	return driver.RowsAffected(0), nil
}

// MessagesFromContext returns the messages that the unit of work of ctx writes.
func MessagesFromContext(ctx context.Context) []*Message { return inserts.Written(ctx) }

// Withdraw drops a message that the unit of work of ctx writes.
func Withdraw(ctx context.Context, w *Message) { inserts.Withdraw(ctx, w) }

// ShardOf is the shard of a key, or of a topic's messages without a key. Of Shards partitions, sarama's hash partitioner chooses the same for a key, so that all keys
// of a shard are in one partition of a topic with 1, 2, 4, 8 or 16 partitions. The function outbox_shard of the database says the same.
func ShardOf(topic, key string) int16 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(cmp.Or(key, topic))) // a hash takes everything
	shard := int16(int32(h.Sum32()) % Shards)  //nolint:gosec // it overflows as sarama's does
	return FirstShard + max(shard, -shard)
}

// CancelTimers deletes delayed messages when the unit of work of ctx commits. It implements a part of the saga engine's interface Timers.
func CancelTimers(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := cancelled.Write(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

var cancelled = &txn.Statement[string]{
	Doing: "cancel timers", Rank: 905, // after those that the same group sets
	Query: func(ids []string) (string, []any, error) {
		return `DELETE FROM outbox WHERE message_id = ANY($1) AND due_at IS NOT NULL AND consumer IS NULL`, []any{ids}, nil
	},
}

// UnblockKey releases the messages of a key that were blocked by a message that the broker refused, unless another refused message of the key
// is left.
func UnblockKey(ctx context.Context, tx sqlx.ExtContext, topic, key string) error {
	// By a statement of its own, and first: of two dead letters of a key that are removed at the same time, the one that comes second sees that
	// the first one is gone.
	_, err := tx.ExecContext(ctx, `UPDATE outbox_epoch SET epoch = epoch + 1`)
	if err != nil {
		return txn.Classify(err, "begin a new generation of the outbox")
	}
	_, err = tx.ExecContext(ctx, `
		UPDATE outbox SET due_at = NULL WHERE topic = $1 AND key = $2 AND due_at = 'infinity' AND consumer IS NULL
			AND NOT EXISTS (SELECT FROM dead_letters WHERE topic = $1 AND key = $2 AND outbox_id IS NOT NULL)`, topic, key)
	return txn.Classify(err, "unblock key "+key+" of topic "+topic)
}

// Backlog counts the messages in the outbox. MaxCounted stands for as many or more.
type Backlog struct {
	Pending int     `db:"pending"` // messages that are due
	Delayed int     `db:"delayed"` // messages that are not due yet
	Blocked int     `db:"parked"`  // messages behind a message of their key that could not be sent or processed
	Oldest  float64 `db:"oldest"`  // age of the oldest due message, in seconds

	Suspended int `db:"suspended"` // messages of topics that cannot be sent to
}

// MaxCounted limits each count, so that probes and scrapers do not become slower with the backlog.
const MaxCounted = 10_000

// LoadBacklog counts the backlog, up to MaxCounted messages of each kind. The age is that of the oldest of the shards' first messages.
func LoadBacklog(ctx context.Context, db *sqlx.DB) (Backlog, error) {
	var b Backlog
	err := db.GetContext(ctx, &b, `SELECT
		(SELECT count(*) FROM (SELECT FROM outbox WHERE due_at IS NULL LIMIT $1) found) AS pending,
		(SELECT count(*) FROM (SELECT FROM outbox WHERE due_at > '-infinity' AND due_at < 'infinity' LIMIT $1) found) AS delayed,
		(SELECT count(*) FROM (SELECT FROM outbox WHERE due_at = 'infinity' LIMIT $1) found) AS parked,
		(SELECT count(*) FROM (SELECT FROM outbox WHERE due_at = '-infinity' LIMIT $1) found) AS suspended,
		COALESCE((SELECT EXTRACT(epoch FROM app_clock() - min(first.created_at)) FROM generate_series($2::int, $2::int + $3::int - 1) AS s(shard)
			CROSS JOIN LATERAL (SELECT created_at FROM outbox WHERE outbox.shard = s.shard AND due_at IS NULL ORDER BY id LIMIT 1) first), 0)::float8 AS oldest`,
		MaxCounted, FirstShard, Shards)
	return b, txn.Classify(err, "count the outbox")
}
