package manager

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Cancel cancels the instance for a subject and compensates it. The error wraps saga.ErrTooLate once its pivot was sent or it has ended. Subject is the
// first event of the subject: Cancel starts the instance with it if there is none yet, because the event itself may not have arrived.
func (m *Manager) Cancel(ctx context.Context, s *saga.Saga, subject cqrs.Event, reason string) error {
	key := s.Subject(subject.Body, subject.Key)
	id := saga.ID(s.Name(), key)
	at := cqrs.MetaFromContext(ctx)
	at.Correlation = subject.Meta.Correlation // what follows has the correlation id of the subject
	ctx = cqrs.WithMeta(ctx, at)
	if err := m.react(ctx, s, id, saga.Start{Event: subject.Body, Subject: key, MessageID: subject.Meta.ID}); err != nil {
		return err
	}
	return m.react(ctx, s, id, saga.Cancel{Reason: reason})
}

// Operate applies an operator's decision about an instance: saga.Retry, saga.Skip or saga.Resolve. The error wraps saga.ErrNotStuck,
// saga.ErrSeveralStuck, or cqrs.ErrNotFound if there is no such instance.
func (m *Manager) Operate(ctx context.Context, id string, in saga.Input) error {
	if _, err := m.Streams.History(ctx, saga.Category, id); err != nil {
		return err
	}
	return m.react(ctx, nil, id, in)
}

// Signal sends a signal of the principal in ctx to an instance. Decode reads the payload into a pointer to the type in the definition. The error wraps
// saga.ErrNotAwaited, ErrRole, or cqrs.ErrNotFound if there is no such instance, or no such signal in its definition. Errors of decode, and of the
// payload's method Validate() error if it has one, are returned as they are.
func (m *Manager) Signal(ctx context.Context, id, name string, decode func(payload any) error) error {
	history, err := m.Streams.History(ctx, saga.Category, id)
	if err != nil {
		return err
	}
	state := saga.Rebuild(id, history)
	definition, err := m.find(state.Definition, state.DefVersion)
	if err != nil {
		return err
	}
	signals := definition.Signals()
	i := slices.IndexFunc(signals, func(s saga.SignalInfo) bool { return s.Name == name })
	if i < 0 {
		return fmt.Errorf("%s has no signal %q: %w", state.Definition, name, cqrs.ErrNotFound)
	}
	who := cqrs.PrincipalFromContext(ctx)
	if !who.HasRole(signals[i].Roles...) {
		return fmt.Errorf("signal %s: %w: %s", name, ErrRole, strings.Join(signals[i].Roles, ", "))
	}
	payload := reflect.New(signals[i].Type)
	if err := decode(payload.Interface()); err != nil {
		return err
	}
	if v, ok := reflect.TypeAssert[interface{ Validate() error }](payload); ok {
		if err := v.Validate(); err != nil {
			return err
		}
	}
	return m.react(ctx, nil, id, saga.SignalInput{Name: name, By: who.Subject, Payload: payload.Elem().Interface()})
}
