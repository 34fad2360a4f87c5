package sagas

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/sagas/saga"
)

// Projection builds the list of sagas from their facts.
func Projection(rows Rows) app.Projection {
	return app.Projection{Name: "sagas", Category: saga.Category, On: []app.EventHandler{
		project[saga.Started](rows), project[saga.StepAsked](rows), project[saga.StepCompleted](rows),
		project[saga.StepRefused](rows), project[saga.StepTimedOut](rows), project[saga.StepCompensated](rows),
		project[saga.CancelRequested](rows), project[saga.AnswerIgnored](rows), project[saga.GotStuck](rows),
		project[saga.StepRetried](rows), project[saga.StepSkipped](rows), project[saga.Resolved](rows),
		project[saga.Completed](rows), project[saga.Compensated](rows),
	}}
}

func project[F saga.Fact](rows Rows) app.EventHandler {
	return app.On(func(ctx context.Context, f F, m app.Meta) error {
		state, err := rows.State(ctx, m.SagaID)
		if err != nil {
			return err
		}
		switch {
		case m.Version <= state.Version:
			return nil // seen already
		case m.Version > state.Version+1:
			return fmt.Errorf("saga %s: fact %d came after fact %d", m.SagaID, m.Version, state.Version)
		}
		state.ID = m.SagaID
		state.Fold(f, m.Time)
		return rows.Save(ctx, state)
	})
}
