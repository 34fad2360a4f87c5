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

// schema is the SchemaAdapter of Watermill's SQL publisher: one table for all topics, a row a message. Only inserting goes
// by way of Watermill; reading is the Relay's, because Watermill's subscriber hands out one message at a time and stalls
// behind any long transaction of the whole server (watermill issue 576).
type schema struct{ topics []string } // of the messages

// InsertQuery implements wsql.SchemaAdapter.
func (s schema) InsertQuery(_ string, messages message.Messages) (wsql.Query, error) {
	n := len(messages)
	ids, topics, keys, shards := make([]string, n), make([]string, n), make([]string, n), make([]int16, n)
	payloads, headers, dues := make([][]byte, n), make([][]byte, n), make([]*time.Time, n)
	for i, msg := range messages {
		metadata := msg.Metadata
		topics[i], keys[i] = s.topics[i], metadata[cqrs.HeaderKey]
		if due := metadata[cqrs.HeaderDue]; due != "" {
			at, err := time.Parse(time.RFC3339Nano, due)
			if err != nil {
				return wsql.Query{}, fmt.Errorf("%s of message %s: %w", cqrs.HeaderDue, msg.UUID, err)
			}
			dues[i] = &at
			metadata = maps.Clone(metadata)
			delete(metadata, cqrs.HeaderDue)
		}
		ids[i], shards[i], payloads[i], headers[i] = msg.UUID, ShardOf(topics[i], keys[i]), msg.Payload, object(metadata)
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

// object is headers as a JSON object. What encoding/json does for any map, sorting and reflecting, costs five times as much.
func object(headers message.Metadata) []byte {
	size := 2
	for name, value := range headers {
		size += len(name) + len(value) + 6
	}
	out := make([]byte, 0, size)
	out = append(out, '{')
	for name, value := range headers {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = quoted(append(quoted(out, name), ':'), value)
	}
	return append(out, '}')
}

// quoted appends a JSON string.
func quoted(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // a string always has one
			return append(out, text...)
		}
	}
	return append(append(append(out, '"'), s...), '"')
}

// The rest of wsql.SchemaAdapter is for subscribing, which nobody does here.

func (schema) SelectQuery(string, string, wsql.OffsetsAdapter) wsql.Query { return wsql.Query{} }

func (schema) UnmarshalMessage(wsql.Scanner) (wsql.Row, error) {
	return wsql.Row{}, errors.New("the outbox is read by its relay only")
}

func (schema) SchemaInitializingQueries(string) []wsql.Query { return nil }

func (schema) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelReadCommitted }
