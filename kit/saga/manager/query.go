package manager

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// ByID returns one instance. Its state is computed from its history, so it is never behind.
type ByID struct {
	cqrs.Result[saga.State]
	ID string
}

// History returns the events of one instance, oldest first.
type History struct {
	cqrs.Result[[]cqrs.Event]
	ID string
}

// List returns instances, newest first.
type List struct {
	cqrs.Result[[]saga.State]
	Status saga.Status // empty: all
	cqrs.Page
}

// Lists reads the list of instances.
type Lists interface {
	// List returns the ids of the instances that q selects.
	List(ctx context.Context, q List) ([]string, error)
}

// Histories reads the events of sagas.
type Histories interface {
	// History returns the events of one aggregate, oldest first. The error wraps cqrs.ErrNotFound if there are none.
	History(ctx context.Context, category, id string) ([]cqrs.Event, error)

	// Histories returns the events of several aggregates, each oldest first.
	Histories(ctx context.Context, category string, ids []string) ([][]cqrs.Event, error)
}

// Queries returns the handlers of the queries about sagas.
func Queries(histories Histories, rows Lists) []cqrs.QueryHandler {
	return []cqrs.QueryHandler{
		cqrs.HandleQuery("SagaByID", func(ctx context.Context, q ByID) (saga.State, error) {
			events, err := histories.History(ctx, saga.Category, q.ID)
			if err != nil {
				return saga.State{}, err
			}
			return saga.Rebuild(q.ID, events), nil
		}),
		cqrs.HandleQuery("SagaHistory", func(ctx context.Context, q History) ([]cqrs.Event, error) {
			return histories.History(ctx, saga.Category, q.ID)
		}),
		cqrs.HandleQuery("ListSagas", func(ctx context.Context, q List) ([]saga.State, error) {
			ids, err := rows.List(ctx, q)
			if err != nil {
				return nil, err
			}
			all, err := histories.Histories(ctx, saga.Category, ids)
			states := make([]saga.State, len(all))
			for i, events := range all {
				states[i] = saga.Rebuild(ids[i], events)
			}
			return states, err
		}),
	}
}
