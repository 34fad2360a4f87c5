package cqrs

import (
	"context"

	"github.com/millrace/millrace/kit/aggregate"
)

// EventConsumer handles events of another service. It handles each event once, in a unit of work of its own. It skips messages of a type without a
// handler.
type EventConsumer struct {
	Name     string
	From     string // the other service; a setting gives the prefix of its topics
	Category string // the type of that service's aggregates; part of the topic's name
	On       []ExternalHandler
}

// ExternalHandler handles one type of event of another service.
type ExternalHandler struct {
	Type aggregate.Type
	EventHandler
}

// OnExternal registers a handler for the events of another service that have the type name. E needs only the fields that the handler reads. Each
// upcaster converts a payload from one schema version of that service to the next one; pass them oldest first.
func OnExternal[E any](name string, handle func(ctx context.Context, e E, m Meta) error, upcasters ...aggregate.Upcaster) ExternalHandler {
	return ExternalHandler{aggregate.NewType[E](name, upcasters...), On(handle)}
}
