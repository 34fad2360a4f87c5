package cqrs

import (
	"context"

	"github.com/millrace/millrace/kit/aggregate"
)

// EventConsumer is what this service does when another one says something on its topics: in one unit of work, once a message. Types of
// messages that it does not hear are none of its business.
type EventConsumer struct {
	Name     string
	From     string // the other service; a setting gives the prefix of its topics
	Category string // the kind of its aggregates; names the topic
	On       []ExternalHandler
}

// ExternalHandler is one type of message that is heard.
type ExternalHandler struct {
	Type aggregate.Type
	EventHandler
}

// OnExternal registers a handler of the other service's messages of a name. E holds as much of them as matters here. Each lift is the step
// from one schema version of theirs to the next, oldest first.
func OnExternal[E any](name string, handle func(ctx context.Context, e E, m Meta) error, upcasters ...aggregate.Upcaster) ExternalHandler {
	return ExternalHandler{aggregate.NewType[E](name, upcasters...), On(handle)}
}
