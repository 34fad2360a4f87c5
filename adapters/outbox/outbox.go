// Package outbox chooses how messages are written into the outbox: with the publisher of watermill-sql, in the transaction that creates the messages.
package outbox

import (
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Insert makes the publisher for one transaction. The kit provides the schema of its table, and sends the statement together with the other statements of
// the unit of work.
func Insert(tx sql.ContextExecutor, schema sql.SchemaAdapter) (message.Publisher, error) {
	return sql.NewPublisher(tx, sql.PublisherConfig{SchemaAdapter: schema}, watermill.NopLogger{})
}
