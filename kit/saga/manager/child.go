package manager

import (
	"context"
	"errors"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// startChild starts an instance for its parent. If the instance has ended, it tells its parent again.
func (m *Manager) startChild(ctx context.Context, c saga.StartChild) error {
	_, err := m.ensureChild(ctx, c)
	return err
}

// compensateChild compensates an instance for its parent. If the instance was never started, it is started first, so that a StartChild that arrives
// later finds the instance compensated.
func (m *Manager) compensateChild(ctx context.Context, c saga.CompensateChild) error {
	state, err := m.ensureChild(ctx, c.StartChild)
	if err != nil || state.Status == saga.StatusCompensated {
		return err
	}
	return m.react(ctx, nil, c.SagaID, saga.Compensate{Reason: c.Reason})
}

// ensureChild returns the state of the instance, and starts the instance if there is none. The state is then the zero state.
func (m *Manager) ensureChild(ctx context.Context, c saga.StartChild) (saga.State, error) {
	history, err := m.Streams.History(ctx, saga.Category, c.SagaID)
	if err == nil {
		state := saga.Rebuild(c.SagaID, history)
		if state.Status.Ended() {
			return state, m.tellParent(ctx, state)
		}
		return state, nil
	}
	if !errors.Is(err, cqrs.ErrNotFound) {
		return saga.State{}, err
	}
	definition, err := m.find(c.Definition, c.Version)
	if err != nil {
		return saga.State{}, err
	}
	event, err := definition.StartEvent(c)
	if err != nil {
		return saga.State{}, err
	}
	return saga.State{}, m.react(ctx, definition, c.SagaID, saga.Start{Event: event, Subject: c.Subject, Parent: &c.Parent})
}

// tellParent sends the parent of an instance the command EndChild.
func (m *Manager) tellParent(ctx context.Context, s saga.State) error {
	return m.Commands.Send(ctx, cqrs.Command{Body: saga.EndChild{
		ParentID: s.Parent.SagaID, Step: s.Parent.Step, ChildID: s.ID, Status: s.Status, Reason: s.Reason, Data: s.Data,
	}, Meta: cqrs.Meta{SagaID: s.Parent.SagaID}})
}
