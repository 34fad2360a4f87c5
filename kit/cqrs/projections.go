package cqrs

import (
	"context"
	"reflect"
)

// Projection builds a read model from the events of one type of aggregate. Its handlers receive the events of each aggregate in order, and may
// receive an event more than once, so they must tolerate duplicates.
type Projection struct {
	Name     string
	Category string
	On       []EventHandler

	// Inline says that the rows are written in the units of work that append the events, so no consumer is needed.
	Inline bool
}

// EventHandler handles one type of event.
type EventHandler struct {
	Type   reflect.Type
	Handle func(ctx context.Context, e Event) error
}

// Handlers returns the handlers by their types of events.
func (p Projection) Handlers() map[reflect.Type]EventHandler {
	handlers := make(map[reflect.Type]EventHandler, len(p.On))
	for _, h := range p.On {
		handlers[h.Type] = h
	}
	return handlers
}

// On registers a handler of E.
func On[E any](handle func(ctx context.Context, e E, m Meta) error) EventHandler {
	return EventHandler{reflect.TypeFor[E](), func(ctx context.Context, e Event) error { return handle(ctx, e.Body.(E), e.Meta) }}
}
