package cqrs

import (
	"context"

	"github.com/millrace/millrace/kit/aggregate"
)

// Reaction is what this service does when another one says something on its topics: in one unit of work, once a message. Types of
// messages that it does not hear are none of its business.
type Reaction struct {
	Name     string
	From     string // the other service; a setting gives the prefix of its topics
	Category string // the kind of its aggregates; names the topic
	On       []Hearing
}

// Hearing is one type of message that is heard.
type Hearing struct {
	Type aggregate.Type
	EventHandler
}

// Hear registers a handler of the other service's messages of a name. E holds as much of them as matters here. Each lift is the step
// from one schema version of theirs to the next, oldest first.
func Hear[E any](name string, handle func(ctx context.Context, e E, m Meta) error, lifts ...aggregate.Lift) Hearing {
	return Hearing{aggregate.NewType[E](name, lifts...), On(handle)}
}
