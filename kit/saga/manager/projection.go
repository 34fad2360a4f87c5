package manager

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Projection rebuilds the list of sagas from their events. While the service runs, the manager writes the list in the transaction of the events.
func Projection(rows Rows) cqrs.Projection {
	p := &projection{rows: rows, open: map[string]saga.State{}}
	return cqrs.Projection{Name: "sagas", Category: saga.Category, Inline: true, On: []cqrs.EventHandler{
		on[saga.Started](p), on[saga.CommandSent](p), on[saga.CommandsSent](p), on[saga.SkippedByCondition](p), on[saga.ItemsCounted](p), on[saga.WaitStarted](p),
		on[saga.WaitsCancelled](p), on[saga.SignalReceived](p), on[saga.EventReceived](p), on[saga.ReminderSent](p), on[saga.RepeatScheduled](p), on[saga.StepCompleted](p), on[saga.StepRefused](p), on[saga.StepTimedOut](p),
		on[saga.StepCompensated](p), on[saga.CancelRequested](p), on[saga.AnswerIgnored](p), on[saga.NeedsIntervention](p), on[saga.StepRetried](p),
		on[saga.StepSkipped](p), on[saga.Resolved](p), on[saga.Completed](p), on[saga.Compensated](p),
	}}
}

// projection holds the state of the instances that have not ended so far, and of completed children, because a parent may still compensate them.
type projection struct {
	rows Rows
	open map[string]saga.State
}

func on[F saga.HistoryEvent](p *projection) cqrs.EventHandler {
	return cqrs.On(func(ctx context.Context, f F, m cqrs.Meta) error {
		before, known := p.open[m.SagaID]
		if known && m.Version <= before.Version {
			return nil // handled before
		}
		state := before
		state.ID = m.SagaID
		state.Fold(f, m.Time)
		state.Data = nil // the list does not show the data
		p.open[m.SagaID] = state
		if state.Status == saga.StatusCompensated || state.Status == saga.StatusCompleted && state.Parent == nil {
			delete(p.open, m.SagaID)
		}
		if known && state.Status == before.Status {
			return nil
		}
		return p.rows.Save(ctx, state)
	})
}
