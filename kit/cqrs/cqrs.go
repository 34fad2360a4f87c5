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

// Clock returns the current time. Tests use their own clock.
type Clock func() time.Time

// Store loads and saves aggregates of one type inside the unit of work of the current message.
type Store[A any] interface {
	// Update rebuilds the aggregate from its events, calls decide, and saves the events that decide records when the unit of work commits. For an
	// unknown id, decide receives an empty aggregate. Update returns the error of decide.
	Update(ctx context.Context, id string, decide func(A) error) error

	// UpdateAll does the same for several aggregates: it saves the events of all of them or of none. Decide receives the aggregates in the order of
	// ids. UpdateAll first locks the aggregates in one global order, so that two units of work that need the same aggregates wait for each other
	// instead of conflicting.
	UpdateAll(ctx context.Context, ids []string, decide func([]A) error) error
}

// Commands delivers commands to their handlers.
type Commands interface {
	// Send stores a command in the outbox and returns. The broker delivers the command to its handler later.
	Send(ctx context.Context, c Command) error

	// Execute calls the handler of a command in the unit of work of ctx, or in a new one if ctx has none, and returns the handler's error.
	Execute(ctx context.Context, c Command) error
}

// UnitOfWork runs a function in one transaction.
type UnitOfWork interface {
	// Within calls work, and commits if work returns nil. Stores and buses that work calls with its ctx write in the transaction. After a version
	// conflict Within calls work again from the start, so work must have no effects other than those of stores and buses.
	Within(ctx context.Context, work func(ctx context.Context) error) error
}

// Branch tells whether a command or an answer belongs to the action of a saga's step or to its compensation.
type Branch string

// The branches. A message that belongs to no saga has an empty branch.
const (
	BranchAction       Branch = "do"
	BranchCompensation Branch = "undo"
)

// Meta is the metadata of a message.
type Meta struct {
	ID          string    // UUIDv7; a saga derives the ids of its commands
	Source      string    // set for a message of another service: the source within which ID is unique; empty: this service
	Type        string    // the stored name: "order.placed", "ReserveStock"
	Schema      int       // schema version of the payload, from 1
	Subject     string    // of an event: the aggregate, "orders/0198…"; of a command: its key
	Version     int       // of an event: its number in the aggregate's stream, from 1; 0: the event is not stored
	Time        time.Time // when the message was created, UTC
	Correlation string    // id of the first message of the process
	Causation   string    // id of the message whose handler created this message
	SagaID      string
	SagaStep    string
	Branch      Branch
	ExpiresAt   time.Time // of a command: its deadline, after which the participant rejects it; zero: none
	Trace       map[string]string
	HandledBy   []string // of an event: the consumers that have handled it inline
}

// Command is a command with its metadata.
type Command struct {
	Body  any
	Meta  Meta      // the bus fills in zero fields
	DueAt time.Time // zero: now
}

// Event is an event with its metadata. It is about to be published, or was read from the event store.
type Event struct {
	Body     any
	Meta     Meta
	Category string // the type of aggregate; part of the topic's name
	Key      string // messages with the same key keep their order
	Position int64  // in the event store, over all streams; 0 if the event was not read from the store
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

// Keyed is the interface of every command. Commands with the same key are handled in order, because the key chooses the partition.
type Keyed interface{ Key() string }

// Handler is the registration of a command handler.
type Handler struct {
	Type        aggregate.Type
	Category    string // the type of aggregate that it changes; the answer to a saga is published on the event topic of this category
	Destination string // part of the name of the command topic; the category, unless WithDestination sets another destination
	Service     string // the service that handles the command; empty: this service

	// Call calls an external service before the unit of work begins. It is nil if the handler needs no external service. It may run more than once
	// for a command.
	Call func(ctx context.Context, command any) (answer any, err error)

	// Handle handles the command inside the unit of work. Answer is the result of Call; nil without Call.
	Handle func(ctx context.Context, command, answer any) error

	// AfterCommit says that the command is handled only after the commit of the transaction that sends it. If it is false, the command may be handled
	// in the sending transaction; rows that Handle then reads outside its aggregate, for example by SQL, may be older than the changes of that
	// transaction.
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

// AfterItsCommit returns the handler with AfterCommit set: the command is handled only after the commit of the transaction that sends it.
func (h Handler) AfterItsCommit() Handler {
	h.AfterCommit = true
	return h
}

// Handle registers a command handler that calls no external service. Name is the stored name of the command.
func Handle[C Keyed](name string, handle func(context.Context, C) error) Handler {
	return Handler{
		Type:   aggregate.NewType[C](name),
		Handle: func(ctx context.Context, command, _ any) error { return handle(ctx, value[C](command)) },
	}
}

// CallThenRecord registers a handler that first calls an external service, without an open transaction, and then records the answer in a unit of
// work. After a crash between the two, call runs again, so the request must carry an idempotency key. The external service may have acted even if no
// action was recorded, so a compensation always makes its call.
func CallThenRecord[C Keyed, R any](name string, call func(context.Context, C) (R, error), record func(context.Context, C, R) error) Handler {
	return Handler{
		Type: aggregate.NewType[C](name),
		Call: func(ctx context.Context, command any) (any, error) { return call(ctx, value[C](command)) },
		Handle: func(ctx context.Context, command, answer any) error {
			return record(ctx, value[C](command), answer.(R))
		},
	}
}

// ForAggregate sets the category of handlers, which is the type of aggregate that they change, and makes it their destination. It changes the
// handlers in place and returns them.
func ForAggregate(category string, handlers ...Handler) []Handler {
	for i := range handlers {
		handlers[i].Category, handlers[i].Destination = category, category
	}
	return handlers
}

// WithDestination sets the destination of handlers, so that their commands have a topic and a circuit breaker of their own. It changes the handlers
// in place and returns them.
func WithDestination(destination string, handlers []Handler) []Handler {
	for i := range handlers {
		handlers[i].Destination = destination
	}
	return handlers
}

// value returns the command as a C. It accepts a *C, which decoders return, and a C.
func value[C any](command any) C {
	if p, ok := command.(*C); ok {
		return *p
	}
	return command.(C)
}
