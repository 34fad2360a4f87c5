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

// List asks for instances, newest first. The answer may lag behind by as long as a projection takes.
type List struct {
	app.Answers[[]saga.State]
	Status saga.Status // empty: all
	query.Page
}

// Rows is the read model of sagas.
type Rows interface {
	List(ctx context.Context, q List) ([]saga.State, error)

	// State returns what the read model knows of an instance; nothing known is the zero State.
	State(ctx context.Context, id string) (saga.State, error)

	// Save keeps a state, unless a later one is there.
	Save(ctx context.Context, s saga.State) error
}

// Queries lists the questions about sagas.
func Queries(history query.History, rows Rows) []app.QueryHandler {
	return []app.QueryHandler{
		app.Query("SagaByID", func(ctx context.Context, q ByID) (saga.State, error) {
			events, err := history.History(ctx, saga.Category, q.ID)
			if err != nil {
				return saga.State{}, err
			}
			return saga.Rebuild(q.ID, events), nil
		}),
		app.Query("ListSagas", rows.List),
	}
}
