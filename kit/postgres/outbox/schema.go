package outbox

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

const table = "outbox"

// Schema is the schema adapter with which watermill-sql's publisher inserts messages into the outbox: one table for all topics, one row a
// message. The publisher may write in any transaction, so that messages are sent if and only if that transaction commits; a Relay reads
// them. Watermill's SQL subscriber cannot read the table: it hands out one message at a time, and waits for every long transaction of the
// whole server (watermill issue 576).
type Schema struct {
	// Key returns the key of a message. The relay sends the messages of one key in the order of their rows, and messages of different keys
	// at the same time. Default: the message's metadata cqrs.HeaderKey.
	Key func(topic string, msg *message.Message) string

	topics []string // of the messages, if a unit of work writes them; else the publisher's topic is that of all
}

// InsertQuery implements wsql.SchemaAdapter.
func (s Schema) InsertQuery(topic string, messages message.Messages) (wsql.Query, error) {
	n := len(messages)
	ids, topics, keys, shards := make([]string, n), make([]string, n), make([]string, n), make([]int16, n)
	payloads, headers, dues := make([][]byte, n), make([][]byte, n), make([]*time.Time, n)
	for i, msg := range messages {
		metadata := msg.Metadata
		if topics[i] = topic; s.topics != nil {
			topics[i] = s.topics[i]
		}
		if keys[i] = metadata[cqrs.HeaderKey]; s.Key != nil {
			keys[i], metadata = s.Key(topics[i], msg), maps.Clone(metadata)
			metadata[cqrs.HeaderKey] = keys[i]
		}
		if due := metadata[cqrs.HeaderDue]; due != "" {
			at, err := time.Parse(time.RFC3339Nano, due)
			if err != nil {
				return wsql.Query{}, fmt.Errorf("%s of message %s: %w", cqrs.HeaderDue, msg.UUID, err)
			}
			dues[i] = &at
			metadata = maps.Clone(metadata)
			delete(metadata, cqrs.HeaderDue)
		}
		if metadata == nil {
			metadata = message.Metadata{} // the column holds an object
		}
		var err error
		if headers[i], err = json.Marshal(metadata); err != nil {
			return wsql.Query{}, fmt.Errorf("headers of message %s: %w", msg.UUID, err)
		}
		ids[i], shards[i], payloads[i] = msg.UUID, ShardOf(topics[i], keys[i]), msg.Payload
	}
	return wsql.Query{
		Query: `INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at)
			SELECT message_id, topic, key, shard, payload, headers::json, due_at
			FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::bytea[], $6::text[], $7::timestamptz[])
			WITH ORDINALITY AS m(message_id, topic, key, shard, payload, headers, due_at, n) ORDER BY n
			RETURNING id`,
		Args: []any{ids, topics, keys, shards, payloads, headers, dues},
	}, nil
}

// SelectQuery implements wsql.SchemaAdapter. The table has no subscriber.
func (Schema) SelectQuery(string, string, wsql.OffsetsAdapter) wsql.Query { return wsql.Query{} }

// UnmarshalMessage implements wsql.SchemaAdapter. The table has no subscriber.
func (Schema) UnmarshalMessage(wsql.Scanner) (wsql.Row, error) {
	return wsql.Row{}, errors.New("the outbox is read by its relay only")
}

// SchemaInitializingQueries implements wsql.SchemaAdapter. Package migrations makes the table.
func (Schema) SchemaInitializingQueries(string) []wsql.Query { return nil }

// SubscribeIsolationLevel implements wsql.SchemaAdapter. The table has no subscriber.
func (Schema) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelReadCommitted }
