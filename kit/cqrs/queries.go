package cqrs

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

// Endpoint answers a request; commands, events and queries all pass through ones of this shape.
type Endpoint func(ctx context.Context, request any) (answer any, err error)

// Decorator wraps something around an endpoint: a log line, a metric, a trace. Name is the request's.
type Decorator func(name string, next Endpoint) Endpoint

// Query is a query whose answer is an A. Embed Answers[A] to make one.
type Query[A any] interface{ answers(A) }

// Result makes the struct that embeds it a Question.
type Result[A any] struct{}

func (Result[A]) answers(A) {}

// QueryHandler answers one type of question.
type QueryHandler struct {
	Name     string
	question reflect.Type
	endpoint Endpoint
}

// HandleQuery registers a handler.
func HandleQuery[Q Query[A], A any](name string, answer func(context.Context, Q) (A, error)) QueryHandler {
	return QueryHandler{name, reflect.TypeFor[Q](), func(ctx context.Context, q any) (any, error) { return answer(ctx, q.(Q)) }}
}

// Queries is the query bus: it takes a question to its handler, through the decorators.
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

// Execute puts a question and returns its answer. The error wraps ErrNotFound if there is nothing to tell.
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
