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

// Cancel has the instance for a subject undone. The error wraps saga.ErrTooLate from its pivot on. As the event that
// starts an instance may still be on its way, it is started here with the subject's first event if need be.
func (m *Manager) Cancel(ctx context.Context, s *saga.Saga, subject cqrs.Event, reason string) error {
	key := s.Subject(subject.Body, subject.Key)
	id := saga.ID(s.Name(), key)
	at := cqrs.MetaFromContext(ctx)
	at.Correlation = subject.Meta.Correlation // what comes of it belongs to what the subject began
	ctx = cqrs.WithMeta(ctx, at)
	if err := m.react(ctx, s, id, saga.Start{Event: subject.Body, Subject: key, MessageID: subject.Meta.ID}); err != nil {
		return err
	}
	return m.react(ctx, s, id, saga.Cancel{Reason: reason})
}

// Operate carries out what a person decides about an instance: saga.Retry, saga.Skip or saga.Resolve. The error wraps
// saga.ErrNotStuck, or cqrs.ErrNotFound.
func (m *Manager) Operate(ctx context.Context, id string, in saga.Input) error {
	if _, err := m.Streams.History(ctx, saga.Category, id); err != nil {
		return err
	}
	return m.react(ctx, nil, id, in)
}

// Signal tells an instance what a person has decided. Decode reads the payload into a pointer to the type that the definition names. The error wraps
// saga.ErrNotAwaited, ErrRole, or cqrs.ErrNotFound if there is no such instance, or no such signal in its definition.
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
