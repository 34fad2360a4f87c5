package cqrs

import (
	"context"

	"github.com/millrace/millrace/kit/aggregate"
)

// EventConsumer handles events of another service, each in one unit of work and once per message. Types of messages without a handler are
// skipped.
type EventConsumer struct {
	Name     string
	From     string // the other service; a setting gives the prefix of its topics
	Category string // the type of its aggregates; part of the topic's name
	On       []ExternalHandler
}

// ExternalHandler handles one type of message of another service.
type ExternalHandler struct {
	Type aggregate.Type
	EventHandler
}

// OnExternal registers a handler of the other service's messages with a name. E has the fields that matter here. Each upcaster is the step
// from one of that service's schema versions to the next, oldest first.
func OnExternal[E any](name string, handle func(ctx context.Context, e E, m Meta) error, upcasters ...aggregate.Upcaster) ExternalHandler {
	return ExternalHandler{aggregate.NewType[E](name, upcasters...), On(handle)}
}
