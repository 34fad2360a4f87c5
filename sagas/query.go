package sagas

import (
	"context"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/sagas/saga"
)

// ByID asks for one instance. It is answered from its history, and never behind.
type ByID struct {
	app.Answers[saga.State]
	ID string
}

// History asks for the facts of one instance, oldest first.
type History struct {
	app.Answers[[]app.Event]
	ID string
}

// List asks for instances, newest first.
type List struct {
	app.Answers[[]saga.State]
	Status saga.Status // empty: all
	app.Page
}

// Rows is the list of sagas.
type Rows interface {
	// List returns the ids of those that are asked for.
	List(ctx context.Context, q List) ([]string, error)
}

// Histories reads sagas' facts.
type Histories interface {
	query.History

	// Histories returns the events of several aggregates, each oldest first.
	Histories(ctx context.Context, category string, ids []string) ([][]app.Event, error)
}

// Queries lists the questions about sagas.
func Queries(histories Histories, rows Rows) []app.QueryHandler {
	return []app.QueryHandler{
		app.Query("SagaByID", func(ctx context.Context, q ByID) (saga.State, error) {
			events, err := histories.History(ctx, saga.Category, q.ID)
			if err != nil {
				return saga.State{}, err
			}
			return saga.Rebuild(q.ID, events), nil
		}),
		app.Query("SagaHistory", func(ctx context.Context, q History) ([]app.Event, error) {
			return histories.History(ctx, saga.Category, q.ID)
		}),
		app.Query("ListSagas", func(ctx context.Context, q List) ([]saga.State, error) {
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
