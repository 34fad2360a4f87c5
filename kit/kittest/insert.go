package kittest

import (
	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Insert is an outbox.Insert that uses the publisher of watermill-sql.
func Insert(tx wsql.ContextExecutor, schema wsql.SchemaAdapter) (message.Publisher, error) {
	return wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: schema}, watermill.NopLogger{})
}
