package sagas

import (
	"context"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/sagas/process"
	"github.com/millrace/millrace/sagas/saga"
)

// Projection builds the list of sagas again from their facts. While the service runs, the list is written together with the facts.
func Projection(rows process.Rows) app.Projection {
	p := &projection{rows: rows, open: map[string]saga.State{}}
	return app.Projection{Name: "sagas", Category: saga.Category, Inline: true, On: []app.EventHandler{
		on[saga.Started](p), on[saga.StepAsked](p), on[saga.StepCompleted](p), on[saga.StepRefused](p), on[saga.StepTimedOut](p),
		on[saga.StepCompensated](p), on[saga.CancelRequested](p), on[saga.AnswerIgnored](p), on[saga.GotStuck](p), on[saga.StepRetried](p),
		on[saga.StepSkipped](p), on[saga.Resolved](p), on[saga.Completed](p), on[saga.Compensated](p),
	}}
}

// projection holds the instances that have not ended where it reads.
type projection struct {
	rows process.Rows
	open map[string]saga.State
}

func on[F saga.Fact](p *projection) app.EventHandler {
	return app.On(func(ctx context.Context, f F, m app.Meta) error {
		before, known := p.open[m.SagaID]
		if known && m.Version <= before.Version {
			return nil // seen already
		}
		state := before
		state.ID = m.SagaID
		state.Fold(f, m.Time)
		p.open[m.SagaID] = state
		if state.Status.Ended() {
			delete(p.open, m.SagaID)
		}
		if known && state.Status == before.Status {
			return nil
		}
		return p.rows.Save(ctx, state)
	})
}
