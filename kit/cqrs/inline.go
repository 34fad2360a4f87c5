package cqrs

import (
	"context"
	"sync/atomic"
	"time"
)

// InlineConsumer is a consumer of events that may handle an event in the unit of work that records it. Its inbox row is written there too, so that
// the event is a duplicate when the broker delivers it. The event's message bears the name, so that the consumer can skip it without a
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

// InlineCommand is a command that may be handled in the unit of work that sends it.
type InlineCommand struct {
	Consumer string // in the inbox
	Meta     Meta

	// Handle handles it once, in the unit of work of ctx, whose metadata is the command's. After an error or a panic what it has done is dropped, and the command is
	// sent. Nil: it cannot be handled there, for example because its handler calls an external service.
	Handle func(ctx context.Context) error
}

// confirmation says what the commit that has sent a message has found. Each part is used once, and soon: it says nothing of later attempts.
type confirmation struct {
	at           time.Time
	order, inbox atomic.Bool
}

type confirmationKey struct{}

// confirmedFor is how long a confirmation counts. Then the message is looked up as any other.
const confirmedFor = 500 * time.Millisecond

// WithConfirmation marks the context of a message for its first delivery: at a time a moment ago no message of its key waited. Unhandled says that it was not handled
// then, nor another message of its saga, step and branch.
func WithConfirmation(ctx context.Context, at time.Time, unhandled bool) context.Context {
	c := &confirmation{at: at}
	c.order.Store(true)
	c.inbox.Store(unhandled)
	return context.WithValue(ctx, confirmationKey{}, c)
}

// OrderConfirmed tells, once, whether the message of ctx need not be looked up among those that wait for a retry.
func OrderConfirmed(ctx context.Context) bool {
	c, ok := ctx.Value(confirmationKey{}).(*confirmation)
	return ok && c.order.Swap(false) && c.counts()
}

// InboxConfirmed tells, once, whether the message of ctx need not be looked up in the inbox.
func InboxConfirmed(ctx context.Context) bool {
	c, ok := ctx.Value(confirmationKey{}).(*confirmation)
	return ok && c.inbox.Swap(false) && c.counts()
}

// counts compares the wall clock too, because the monotonic one stands still while a virtual machine is suspended.
func (c *confirmation) counts() bool {
	now := time.Now()
	return now.Sub(c.at) < confirmedFor && now.Round(0).Sub(c.at.Round(0)).Abs() < confirmedFor
}
