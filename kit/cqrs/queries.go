package cqrs

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

// Endpoint handles a request. Handlers of commands, events and queries have this form.
type Endpoint func(ctx context.Context, request any) (answer any, err error)

// Decorator wraps an endpoint, for a log line, a metric or a trace. Name is the request's.
type Decorator func(name string, next Endpoint) Endpoint

// Query is a query whose result is an A. Embed Result[A] to make one.
type Query[A any] interface{ answers(A) }

// Result makes the struct that embeds it a Query.
type Result[A any] struct{}

func (Result[A]) answers(A) {}

// QueryHandler handles one type of query.
type QueryHandler struct {
	Name     string
	question reflect.Type
	endpoint Endpoint
}

// HandleQuery registers a handler of a query.
func HandleQuery[Q Query[A], A any](name string, answer func(context.Context, Q) (A, error)) QueryHandler {
	return QueryHandler{name, reflect.TypeFor[Q](), func(ctx context.Context, q any) (any, error) { return answer(ctx, q.(Q)) }}
}

// Queries is the query bus: it calls the handler of a query, through the decorators.
type Queries struct{ endpoints map[reflect.Type]Endpoint }

// NewQueries makes the bus. The first decorator is the outermost.
func NewQueries(handlers []QueryHandler, decorators ...Decorator) *Queries {
	b := &Queries{map[reflect.Type]Endpoint{}}
	for _, h := range handlers {
		endpoint := h.endpoint
		for _, decorate := range slices.Backward(decorators) {
			endpoint = decorate(h.Name, endpoint)
		}
		b.endpoints[h.question] = endpoint
	}
	return b
}

// Execute executes a query and returns its result. The error wraps ErrNotFound if there is none.
func Execute[A any](ctx context.Context, b *Queries, q Query[A]) (A, error) {
	var none A
	endpoint, ok := b.endpoints[reflect.TypeOf(q)]
	if !ok {
		return none, fmt.Errorf("nobody answers %T", q)
	}
	answer, err := endpoint(ctx, q)
	if err != nil {
		return none, err
	}
	return answer.(A), nil
}

// History reads the events of an aggregate, oldest first. The error wraps ErrNotFound if there are none.
type History interface {
	History(ctx context.Context, category, id string) ([]Event, error)
}

// Bodies are the events as an aggregate records them, for its function that rebuilds it. It panics if one is not of type E.
func Bodies[E any](events []Event) []E {
	bodies := make([]E, len(events))
	for i, e := range events {
		bodies[i] = e.Body.(E)
	}
	return bodies
}
