package cqrs

import "context"

// InlineConsumer is a consumer of events that may handle an event in the unit of work that records it. Its inbox row is written there too, so that
// the event is a duplicate when the broker delivers it. The event's message bears the name, so that the consumer can pass over it without a
// look-up.
type InlineConsumer struct {
	Name     string // in HeaderHandledBy
	Consumer string // in the inbox
	Category string // of the aggregates whose events it handles

	// Takes tells whether an event concerns the consumer, and whether it may be handled inline: its order must not matter among the events that concern
	// the consumer and are still on their way.
	Takes func(e Event) (concerns, inline bool)

	// Handle handles an event with the stores and buses of the unit of work of ctx, whose metadata is the event's. An error or a panic drops what
	// it has done, and the broker delivers the event. So it is if Handle needs the unit's own transaction.
	Handle func(ctx context.Context, e Event) error
}
