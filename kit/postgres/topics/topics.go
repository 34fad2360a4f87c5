// Package topics is a message broker in PostgreSQL, by watermill-sql's publisher and subscriber, for installations without Kafka and with
// few messages. A group handles one message of a topic at a time, on one instance, and polls.
package topics

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// Batch is the number of messages that a group reads at a time. So many may be redelivered after a crash.
const Batch = 20

// An idle group polls after a pause that grows from soonest to latest.
const (
	soonest = 5 * time.Millisecond
	latest  = 200 * time.Millisecond
)

// ackWithin limits the processing of a message. The router's own limits are shorter.
const ackWithin = 5 * time.Minute

// OpenReaders makes the pool of the subscribers, each of which holds a connection while it processes messages. They write their offsets
// without waiting for the disk: an offset that a crash of the database loses only causes a redelivery.
func OpenReaders(dsn string) (*sqlx.DB, error) {
	config, err := txn.Config(dsn, map[string]string{
		"synchronous_commit":                  "off",
		"idle_in_transaction_session_timeout": "60s", // an instance that was stopped must not keep a topic from others
	})
	if err != nil {
		return nil, err
	}
	db := sqlx.NewDb(stdlib.OpenDB(*config), "pgx")
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}

// NewPublisher makes Watermill's SQL publisher. A publisher to a topic waits for the commit of the one before it, so that messages get their
// numbers in commit order.
func NewPublisher(db *sqlx.DB, logger watermill.LoggerAdapter) (message.Publisher, error) {
	return wsql.NewPublisher(db, wsql.PublisherConfig{SchemaAdapter: schema{}}, logger)
}

// NewSubscriber makes Watermill's SQL subscriber for a group.
func NewSubscriber(readers *sqlx.DB, group string, logger watermill.LoggerAdapter) (message.Subscriber, error) {
	within := ackWithin
	return wsql.NewSubscriber(readers, wsql.SubscriberConfig{
		ConsumerGroup: group, SchemaAdapter: schema{}, OffsetsAdapter: offsets{}, AckDeadline: &within, BackoffManager: &pauses{},
	}, logger)
}

// ReadAll reads topics from their beginning to their current end, each in order.
func ReadAll(ctx context.Context, db *sqlx.DB, topics []string, each func(topic string, msg *message.Message) error) error {
	rows, err := db.QueryContext(ctx, `SELECT id, message_id, payload, headers, topic FROM topic_messages WHERE topic = ANY($1) ORDER BY id`, topics)
	if err != nil {
		return txn.Classify(err, "read topics")
	}
	defer rows.Close() //nolint:errcheck // read to its end
	for rows.Next() {
		var topic string
		row, err := scan(rows, &topic)
		if err != nil {
			return err
		}
		if err := each(topic, row.Msg); err != nil {
			return err
		}
	}
	return txn.Classify(rows.Err(), "read topics")
}

// pauses is a wsql.BackoffManager.
type pauses struct{ last time.Duration }

// HandleError implements wsql.BackoffManager.
func (p *pauses) HandleError(logger watermill.LoggerAdapter, noMsg bool, err error) time.Duration {
	switch {
	case err != nil:
		logger.Error("Cannot read messages yet", err, nil)
		p.last = time.Second
		return p.last
	case !noMsg:
		p.last = 0
		return 0
	}
	p.last = min(max(2*p.last, soonest), latest)
	return p.last
}

// schema is Watermill's SchemaAdapter for one table of all topics. Watermill's own adapter skips no message because it reads only rows that
// are older than any open transaction of the whole server, so it stalls behind each of them (watermill issue 576). Here a lock makes messages
// of a topic get their numbers in commit order, so that there are no gaps.
type schema struct{}

// InsertQuery implements wsql.SchemaAdapter.
func (schema) InsertQuery(topic string, messages message.Messages) (wsql.Query, error) {
	ids, payloads, headers := make([]string, len(messages)), make([][]byte, len(messages)), make([]string, len(messages))
	for i, m := range messages {
		h, err := json.Marshal(m.Metadata)
		if err != nil {
			return wsql.Query{}, err
		}
		ids[i], payloads[i], headers[i] = m.UUID, m.Payload, string(h)
	}
	return wsql.Query{
		Query: `WITH first AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('topic ' || current_schema() || ' ' || $1, 0)))
			INSERT INTO topic_messages (topic, message_id, payload, headers)
			SELECT $1, m.id, m.payload, m.headers::json FROM first, unnest($2::text[], $3::bytea[], $4::text[]) WITH ORDINALITY AS m(id, payload, headers, n) ORDER BY n`,
		Args: []any{topic, ids, payloads, headers},
	}, nil
}

// SelectQuery implements wsql.SchemaAdapter.
func (schema) SelectQuery(topic string, group string, o wsql.OffsetsAdapter) wsql.Query {
	next := o.NextOffsetQuery(topic, group)
	return wsql.Query{
		Query: fmt.Sprintf(`WITH last AS MATERIALIZED (%s)
			SELECT m.id, m.message_id, m.payload, m.headers FROM last, LATERAL (
				SELECT * FROM topic_messages WHERE topic = $1 AND id > last.acked ORDER BY id LIMIT %d) m ORDER BY m.id`, next.Query, Batch),
		Args: next.Args,
	}
}

// UnmarshalMessage implements wsql.SchemaAdapter.
func (schema) UnmarshalMessage(row wsql.Scanner) (wsql.Row, error) { return scan(row) }

func scan(row wsql.Scanner, more ...any) (wsql.Row, error) {
	var r wsql.Row
	var id string
	if err := row.Scan(append([]any{&r.Offset, &id, &r.Payload, &r.Metadata}, more...)...); err != nil {
		return r, err
	}
	r.UUID = []byte(id)
	r.Msg = message.NewMessage(id, r.Payload)
	return r, json.Unmarshal(r.Metadata, &r.Msg.Metadata)
}

// SchemaInitializingQueries implements wsql.SchemaAdapter: the tables are in migrations/.
func (schema) SchemaInitializingQueries(string) []wsql.Query { return nil }

// SubscribeIsolationLevel implements wsql.SchemaAdapter.
func (schema) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelReadCommitted }

// offsets is Watermill's OffsetsAdapter. A reader locks the row of its group, and other readers of the group find no messages meanwhile.
type offsets struct{}

// NextOffsetQuery implements wsql.OffsetsAdapter.
func (offsets) NextOffsetQuery(topic, group string) wsql.Query {
	return wsql.Query{Query: `SELECT acked FROM topic_offsets WHERE topic = $1 AND consumer = $2 FOR UPDATE SKIP LOCKED`, Args: []any{topic, group}}
}

// AckMessageQuery implements wsql.OffsetsAdapter.
func (offsets) AckMessageQuery(topic string, row wsql.Row, group string) wsql.Query {
	return wsql.Query{Query: `UPDATE topic_offsets SET acked = $3 WHERE topic = $1 AND consumer = $2`, Args: []any{topic, group, row.Offset}}
}

// ConsumedMessageQuery implements wsql.OffsetsAdapter.
func (offsets) ConsumedMessageQuery(string, wsql.Row, string, []byte) wsql.Query { return wsql.Query{} }

// SchemaInitializingQueries implements wsql.OffsetsAdapter.
func (offsets) SchemaInitializingQueries(string) []wsql.Query { return nil }

// BeforeSubscribingQueries implements wsql.OffsetsAdapter: a new group begins at the beginning.
func (offsets) BeforeSubscribingQueries(topic string, group string) []wsql.Query {
	return []wsql.Query{{Query: `INSERT INTO topic_offsets (topic, consumer) VALUES ($1, $2) ON CONFLICT DO NOTHING`, Args: []any{topic, group}}}
}
