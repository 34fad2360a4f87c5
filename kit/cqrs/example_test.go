package cqrs_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/cqrs/cqrstest"
)

type lit struct{}

type lamp struct {
	aggregate.Root[lit]
	on bool
}

func (l *lamp) apply(lit) { l.on = true }

func (l *lamp) light() error {
	if l.on {
		return aggregate.Refuse("the lamp is on already")
	}
	l.Record(l.apply, lit{})
	return nil
}

// LightLamp is a command. Commands of one key are handled in order.
type LightLamp struct{ ID string }

func (c LightLamp) Key() string { return c.ID }

// lightLamp makes the handler of LightLamp, which loads an aggregate from a store and has it decide.
func lightLamp(lamps cqrs.Store[*lamp]) cqrs.Handler {
	return cqrs.Handle("LightLamp", func(ctx context.Context, c LightLamp) error {
		return lamps.Update(ctx, c.ID, (*lamp).light)
	})
}

// A command handler is tested without a database: the store holds the aggregate.
func ExampleHandle() {
	store := cqrstest.Holding(&lamp{})
	h := lightLamp(store)
	fmt.Println(h.Handle(context.Background(), LightLamp{"lamp-1"}, nil), store.Aggregate.Changes())
	fmt.Println(h.Handle(context.Background(), LightLamp{"lamp-1"}, nil))
	// Output:
	// <nil> [{}]
	// the lamp is on already
}

// LampByID is a query whose result is a string.
type LampByID struct {
	cqrs.Result[string]
	ID string
}

// The query bus takes a query to its handler.
func ExampleQueries() {
	queries := cqrs.NewQueries([]cqrs.QueryHandler{
		cqrs.HandleQuery("LampByID", func(_ context.Context, q LampByID) (string, error) {
			if q.ID != "lamp-1" {
				return "", fmt.Errorf("lamp %s: %w", q.ID, cqrs.ErrNotFound)
			}
			return "on", nil
		}),
	})
	fmt.Println(cqrs.Execute(context.Background(), queries, LampByID{ID: "lamp-1"}))
	_, err := cqrs.Execute(context.Background(), queries, LampByID{ID: "lamp-2"})
	fmt.Println(errors.Is(err, cqrs.ErrNotFound), err)
	// Output:
	// on <nil>
	// true lamp lamp-2: not found
}

// The kind of an error decides what becomes of the message whose handler has failed.
func ExampleKindOf() {
	for _, err := range []error{
		fmt.Errorf("reserve stock: %w", aggregate.Refuse("sold out")),
		fmt.Errorf("load order: %w", cqrs.ErrConflict),
		fmt.Errorf("charge card: %w", cqrs.ErrUnavailable),
		fmt.Errorf("decode: %w", cqrs.ErrPermanent),
	} {
		fmt.Println(cqrs.KindOf(err), cqrs.Retryable(err))
	}
	// Output:
	// refused false
	// conflict true
	// down true
	// poison false
}
