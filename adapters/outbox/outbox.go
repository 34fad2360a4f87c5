// Package outbox chooses how messages get into the outbox: by watermill-sql's publisher, in the transaction that makes them.
package outbox

import (
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Insert makes the publisher for one transaction. The kit gives the schema of its table and sends the statement with the others of the unit of
// work.
func Insert(tx sql.ContextExecutor, schema sql.SchemaAdapter) (message.Publisher, error) {
	return sql.NewPublisher(tx, sql.PublisherConfig{SchemaAdapter: schema}, watermill.NopLogger{})
}
