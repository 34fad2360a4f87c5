// Package cqrs is what the use cases of a service are written with: handlers of commands, events and queries, the stores and buses that
// they use, the metadata that travels with a message, and the classes of errors that decide what becomes of a message whose handler
// fails.
//
// It does not depend on Watermill or on a database. Package messaging carries commands and events over Watermill, package postgres
// implements the stores, the unit of work and the inbox.
package cqrs

import (
	"context"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
)

// Clock tells the time. Tests bring their own.
type Clock func() time.Time

// Store loads and saves aggregates of one kind inside the unit of work of the message at hand.
type Store[A any] interface {
	// Update rebuilds the aggregate, lets decide change it, and has what it recorded saved when the unit of work
	// commits. An id that was never seen gives an empty aggregate. What decide returns is returned.
	Update(ctx context.Context, id string, decide func(A) error) error

	// UpdateAll does so for several at once, all or none; decide gets them in the order of ids. They are locked in one
	// global order first, so that units which want the same aggregates queue up instead of clashing.
	UpdateAll(ctx context.Context, ids []string, decide func([]A) error) error
}

// Commands takes commands to their handlers.
type Commands interface {
	// Send puts a command on its way: outbox, broker, handler. It returns as soon as the outbox has it.
	Send(ctx context.Context, c Command) error

	// Execute has the command handled here and now, in the unit of work of ctx or in one of its own, and returns
	// what the handler says.
	Execute(ctx context.Context, c Command) error
}

// UnitOfWork is one transaction around everything that work does with stores and buses through its context.
type UnitOfWork interface {
	// Within commits if work returns nil. A version conflict makes it run work again from the start; work must
	// therefore have no other effects than those on stores and buses.
	Within(ctx context.Context, work func(ctx context.Context) error) error
}

// Branch says which way a saga's command goes.
type Branch string

// Forwards, or backwards as a compensation. Commands that no saga sent have neither.
const (
	BranchAction       Branch = "do"
	BranchCompensation Branch = "undo"
)

// Meta travels with a message.
type Meta struct {
	ID          string    // of this message; UUIDv7, except that a saga derives its commands' ids
	Source      string    // of another service's message: who says it, within which ID is unique; empty: this service
	Type        string    // stored name: "order.placed", "ReserveStock"
	Schema      int       // schema version of the payload, from 1
	Subject     string    // the aggregate: "orders/0198…"; for a command its key
	Version     int       // of an event: its number in the aggregate's stream, from 1; 0 if it is not stored
	Time        time.Time // when it was decided, UTC
	Correlation string    // the id of the message that began it all
	Causation   string    // the id of the message that it answers
	SagaID      string
	SagaStep    string
	Branch      Branch
	ExpiresAt   time.Time // a participant refuses the command afterwards; zero: never
	Trace       map[string]string
}

// Command is a wish on its way.
type Command struct {
	Body  any
	Meta  Meta      // what is zero is filled in by the bus
	DueAt time.Time // zero: now
}

// Event is a fact on its way, or one that was read from the store.
type Event struct {
	Body     any
	Meta     Meta
	Category string // the kind of aggregate; names the topic
	Key      string // messages of one key keep their order
	Position int64  // in the store, over all streams; 0 if it is not from there
}

type metaKey struct{}

// WithMeta puts the message at hand into the context of its handler.
func WithMeta(ctx context.Context, m Meta) context.Context {
	return context.WithValue(ctx, metaKey{}, m)
}

// MetaFromContext returns the message at hand, or an empty one.
func MetaFromContext(ctx context.Context) Meta {
	m, _ := ctx.Value(metaKey{}).(Meta)
	return m
}

// Keyed is what every command is: it says whose order it keeps, which also chooses its partition.
type Keyed interface{ Key() string }

// Handler is a use case that a command starts.
type Handler struct {
	Type        aggregate.Type
	Category    string // the kind of aggregate that it changes; on its event topic a saga is answered
	Destination string // names the topic; the category, unless Through says otherwise
	Service     string // that handles it; empty: this one

	// Call talks to the outside before the unit of work begins; nil if there is nothing to ask. It may be repeated.
	Call func(ctx context.Context, command any) (answer any, err error)

	// Handle decides and records, inside the unit of work.
	Handle func(ctx context.Context, command, answer any) error
}

// Handle registers a handler that needs nobody outside. Name is the command's stored name.
func Handle[C Keyed](name string, handle func(context.Context, C) error) Handler {
	return Handler{
		Type:   aggregate.NewType[C](name),
		Handle: func(ctx context.Context, command, _ any) error { return handle(ctx, value[C](command)) },
	}
}

// CallThenRecord registers a handler that first asks a service outside, with no transaction open meanwhile, and then records the
// answer. As a crash between the two repeats the question, it must carry an idempotency key. For the same reason the
// undoing of such a command is always asked, even where nothing was recorded of the doing: it may have happened.
func CallThenRecord[C Keyed, R any](name string, call func(context.Context, C) (R, error), record func(context.Context, C, R) error) Handler {
	return Handler{
		Type: aggregate.NewType[C](name),
		Call: func(ctx context.Context, command any) (any, error) { return call(ctx, value[C](command)) },
		Handle: func(ctx context.Context, command, answer any) error {
			return record(ctx, value[C](command), answer.(R))
		},
	}
}

// ForAggregate says which kind of aggregate handlers change.
func ForAggregate(category string, handlers ...Handler) []Handler {
	for i := range handlers {
		handlers[i].Category, handlers[i].Destination = category, category
	}
	return handlers
}

// WithDestination gives handlers a destination of their own, with its own topic and its own breaker.
func WithDestination(destination string, handlers []Handler) []Handler {
	for i := range handlers {
		handlers[i].Destination = destination
	}
	return handlers
}

// value accepts what a decoder gives: a pointer, or the command itself.
func value[C any](command any) C {
	if p, ok := command.(*C); ok {
		return *p
	}
	return command.(C)
}
