// Package cqrs has the types for the use cases of a service: handlers of commands, events and queries, the stores and buses that they use,
// the metadata of a message, and the kinds of errors that decide whether a failed message is retried.
//
// It does not depend on Watermill or on a database. Package messaging carries commands and events over Watermill. Package postgres implements
// the stores, the unit of work and the inbox.
package cqrs

import (
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
)

// Clock tells the time. Tests use their own.
type Clock func() time.Time

// Store loads and saves aggregates of one type inside the unit of work of the current message.
type Store[A any] interface {
	// Update rebuilds the aggregate, calls decide, and saves the recorded events when the unit of work commits. An unknown id gives an empty
	// aggregate. Update returns the error of decide.
	Update(ctx context.Context, id string, decide func(A) error) error

	// UpdateAll does the same for several aggregates, all or none; decide gets them in the order of ids. They are locked in one global order
	// first, so that units that need the same aggregates queue up instead of conflicting.
	UpdateAll(ctx context.Context, ids []string, decide func([]A) error) error
}

// Commands delivers commands to their handlers.
type Commands interface {
	// Send puts a command into the outbox and returns. Its handler receives it from the broker.
	Send(ctx context.Context, c Command) error

	// Execute calls the handler of a command, in the unit of work of ctx or in one of its own, and returns the handler's error.
	Execute(ctx context.Context, c Command) error
}

// UnitOfWork is one transaction around everything that work does with stores and buses through its context.
type UnitOfWork interface {
	// Within commits if work returns nil. After a version conflict it runs work again from the start, so work must have no other effects than
	// those by stores and buses.
	Within(ctx context.Context, work func(ctx context.Context) error) error
}

// Branch tells the action of a saga's step from its compensation.
type Branch string

// The branches. Commands that no saga has sent have none.
const (
	BranchAction       Branch = "do"
	BranchCompensation Branch = "undo"
)

// Meta is the metadata of a message.
type Meta struct {
	ID          string    // of this message; UUIDv7, except that a saga derives its commands' ids
	Source      string    // of another service's message: the source within which ID is unique; empty: this service
	Type        string    // stored name: "order.placed", "ReserveStock"
	Schema      int       // schema version of the payload, from 1
	Subject     string    // the aggregate: "orders/0198…"; for a command its key
	Version     int       // of an event: its number in the aggregate's stream, from 1; 0 if it is not stored
	Time        time.Time // of the decision, UTC
	Correlation string    // id of the first message of the process
	Causation   string    // id of the message whose handler made this one
	SagaID      string
	SagaStep    string
	Branch      Branch
	ExpiresAt   time.Time // a participant refuses the command afterwards; zero: never
	Trace       map[string]string
	HandledBy   []string // of an event: the consumers that have handled it inline
}

// Command is a command with its metadata.
type Command struct {
	Body  any
	Meta  Meta      // the bus fills in zero fields
	DueAt time.Time // zero: now
}

// Event is an event with its metadata, to be published or read from the store.
type Event struct {
	Body     any
	Meta     Meta
	Category string // the type of aggregate; part of the topic's name
	Key      string // messages of one key keep their order
	Position int64  // in the store, over all streams; 0 if it was not read from the store
}

type metaKey struct{}

// WithMeta puts the metadata of the current message into the context of its handler.
func WithMeta(ctx context.Context, m Meta) context.Context {
	return context.WithValue(ctx, metaKey{}, m)
}

// MetaFromContext returns the metadata of the current message, or an empty Meta.
func MetaFromContext(ctx context.Context) Meta {
	m, _ := ctx.Value(metaKey{}).(Meta)
	return m
}

// Keyed is the interface of every command. Commands with the same key are handled in order; the key also chooses the partition.
type Keyed interface{ Key() string }

// Handler is the registration of a command handler.
type Handler struct {
	Type        aggregate.Type
	Category    string // the type of aggregate that it changes; a saga is answered on its event topic
	Destination string // part of the topic's name; the category, unless WithDestination sets another one
	Service     string // the service that handles it; empty: this one

	// Call calls an external service before the unit of work begins; nil if there is none. It may be repeated.
	Call func(ctx context.Context, command any) (answer any, err error)

	// Handle decides and records, inside the unit of work.
	Handle func(ctx context.Context, command, answer any) error

	// AfterCommit says that a command is handled only after the transaction that sends it. Otherwise it may be handled in that transaction, and what Handle
	// reads besides its aggregate, as by SQL, can be what was stored before.
	AfterCommit bool

	// FormerNames are stored names that the command had before it was renamed. See Formerly.
	FormerNames []string
}

// Formerly makes a handler also handle commands that were sent under former names, before the command was renamed: they may wait in the outbox, in Kafka,
// for a retry or as dead letters. Remove the names when none is left.
func (h Handler) Formerly(names ...string) Handler {
	h.FormerNames = append(slices.Clip(h.FormerNames), names...)
	return h
}

// AfterItsCommit makes a handler one that handles a command only after the transaction that sends it.
func (h Handler) AfterItsCommit() Handler {
	h.AfterCommit = true
	return h
}

// Handle registers a handler without an external call. Name is the command's stored name.
func Handle[C Keyed](name string, handle func(context.Context, C) error) Handler {
	return Handler{
		Type:   aggregate.NewType[C](name),
		Handle: func(ctx context.Context, command, _ any) error { return handle(ctx, value[C](command)) },
	}
}

// CallThenRecord registers a handler that calls an external service while no transaction is open, and then records the answer in a unit of
// work. A crash between the two repeats the call, so it must carry an idempotency key. For the same reason a compensation always makes its
// call, even if no action was recorded: the external service may have acted.
func CallThenRecord[C Keyed, R any](name string, call func(context.Context, C) (R, error), record func(context.Context, C, R) error) Handler {
	return Handler{
		Type: aggregate.NewType[C](name),
		Call: func(ctx context.Context, command any) (any, error) { return call(ctx, value[C](command)) },
		Handle: func(ctx context.Context, command, answer any) error {
			return record(ctx, value[C](command), answer.(R))
		},
	}
}

// ForAggregate sets the type of aggregate that handlers change.
func ForAggregate(category string, handlers ...Handler) []Handler {
	for i := range handlers {
		handlers[i].Category, handlers[i].Destination = category, category
	}
	return handlers
}

// WithDestination gives handlers a destination of their own, with its own topic and circuit breaker.
func WithDestination(destination string, handlers []Handler) []Handler {
	for i := range handlers {
		handlers[i].Destination = destination
	}
	return handlers
}

// value accepts a pointer, as decoders return, or the command itself.
func value[C any](command any) C {
	if p, ok := command.(*C); ok {
		return *p
	}
	return command.(C)
}
