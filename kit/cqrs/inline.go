package cqrs

import (
	"context"
	"sync/atomic"
	"time"
)

// InlineConsumer is a consumer that may handle an event inline: in the unit of work that records the event. Its inbox row is written in the same unit
// of work, so the event is a duplicate when the broker delivers it. The header HeaderHandledBy of the event names the consumer, so that the consumer
// can skip the event without reading the inbox.
type InlineConsumer struct {
	Name     string // in HeaderHandledBy
	Consumer string // in the inbox
	Category string // of the aggregates whose events it handles

	// Takes tells whether an event concerns the consumer, and whether the consumer may handle it inline. An event may be handled inline only if its
	// order does not matter among the events that concern the consumer and that the broker has not delivered yet.
	Takes func(e Event) (concerns, inline bool)

	// Handle handles an event with the stores and buses of the unit of work of ctx. The metadata in ctx is the event's. After an error or a panic, or
	// if Handle needs the transaction of the unit of work, the effects of Handle are discarded and the broker delivers the event.
	Handle func(ctx context.Context, e Event) error
}

// InlineCommand is a command that may be handled in the unit of work that sends it.
type InlineCommand struct {
	Consumer string // in the inbox
	Meta     Meta

	// Handle handles the command once, in the unit of work of ctx. The metadata in ctx is the command's. After an error or a panic, the effects of
	// Handle are discarded and the command is sent. Nil: the command cannot be handled inline, for example because its handler calls an external
	// service.
	Handle func(ctx context.Context) error
}

// confirmation holds the checks that the transaction which sent a message has made. Each result is used once and only within confirmedFor, because
// the state may have changed when the message is attempted again.
type confirmation struct {
	at           time.Time
	order, inbox atomic.Bool
}

type confirmationKey struct{}

// confirmedFor is how long a confirmation is valid. After it, the message is looked up like any other message.
const confirmedFor = 500 * time.Millisecond

// WithConfirmation marks the context of a message for its first delivery. At the time at, a moment ago, no earlier message of its key waited.
// Unhandled says that at that time neither the message nor another message of its saga, step and branch had been handled.
func WithConfirmation(ctx context.Context, at time.Time, unhandled bool) context.Context {
	c := &confirmation{at: at}
	c.order.Store(true)
	c.inbox.Store(unhandled)
	return context.WithValue(ctx, confirmationKey{}, c)
}

// OrderConfirmed tells whether the key of the message of ctx is known not to be blocked, so that it need not be looked up in the key queue. It
// returns true at most once.
func OrderConfirmed(ctx context.Context) bool {
	c, ok := ctx.Value(confirmationKey{}).(*confirmation)
	return ok && c.order.Swap(false) && c.counts()
}

// InboxConfirmed tells whether the message of ctx is known not to be processed, so that it need not be looked up in the inbox. It returns true at
// most once.
func InboxConfirmed(ctx context.Context) bool {
	c, ok := ctx.Value(confirmationKey{}).(*confirmation)
	return ok && c.inbox.Swap(false) && c.counts()
}

// counts tells whether the confirmation is still valid. It also compares the wall clock, because the monotonic clock stops while a virtual machine is
// suspended.
func (c *confirmation) counts() bool {
	now := time.Now()
	return now.Sub(c.at) < confirmedFor && now.Round(0).Sub(c.at.Round(0)).Abs() < confirmedFor
}
