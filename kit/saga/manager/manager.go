// Package manager runs sagas: it loads an instance from its event stream, passes an input to the engine, stores the events that the
// engine returns, and sends the commands and timers, all in the unit of work of the message that is handled.
package manager

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// ErrRole refuses a signal whose sender has none of the signal's roles.
var ErrRole = errors.New("one of these roles is needed")

// Streams is the event store as the manager uses it, inside a unit of work.
type Streams interface {
	// History returns a stream's events, oldest first. The error wraps cqrs.ErrNotFound if there are none.
	History(ctx context.Context, category, id string) ([]cqrs.Event, error)

	// Record appends events to a stream that holds exactly expected events. If another transaction has appended events to the stream, Record or the
	// commit fails with an error that wraps cqrs.ErrConflict.
	Record(ctx context.Context, category, id string, expected int, facts []any) error
}

// Timers cancels timers, which are delayed messages.
type Timers interface {
	// Stop cancels delayed messages by their ids. A message that was sent already arrives all the same.
	Stop(ctx context.Context, messageIDs []string) error
}

// Rows is the list of instances, a read model that is written in the unit of work of the instance.
type Rows interface {
	// Save stores the row of an instance, when the unit of work of ctx commits.
	Save(ctx context.Context, s saga.State) error
}

// Manager runs sagas. Its methods open no transaction: each works inside the unit of work of its context. It is safe for concurrent use if its fields are.
type Manager struct {
	Sagas    []*saga.Saga // all registered definitions, with the old versions that still have running instances
	Streams  Streams
	Rows     Rows  // nil: there is no list of instances
	Waits    Waits // nil: no definition may wait for events
	Commands cqrs.Commands
	Timers   Timers     // nil: timers are not cancelled; a timer that is not needed any more fires, and changes nothing
	Clock    cqrs.Clock // nil: time.Now

	// Open tells whether the circuit breaker of a command's destination is open, as far as this process knows. Nil: all breakers count as closed.
	Open func(command cqrs.Keyed) bool

	// StartsInline tells whether commands reach their handlers even if the broker is not available, because this process handles all of them. Then the
	// first event of an aggregate may start an instance in the unit of work that records it. Nil: false.
	StartsInline func() bool
}

// Handlers returns the handlers of the commands that are sent to sagas: timers, and the commands between parents and children.
func (m *Manager) Handlers() []cqrs.Handler {
	return cqrs.ForAggregate(saga.Category,
		cqrs.Handle("TimeOutStep", m.Timeout), cqrs.Handle("StartChildSaga", m.startChild), cqrs.Handle("CompensateChildSaga", m.compensateChild),
		cqrs.Handle("EndChildSaga", func(ctx context.Context, c saga.EndChild) error {
			return m.react(ctx, nil, c.ParentID, saga.ChildEnded{EndChild: c})
		}),
	)
}

// Receive handles an event for a consumer's saga once, through the inbox. An event that does not concern the saga is cqrs.Processed without an entry in
// the inbox.
func (m *Manager) Receive(ctx context.Context, inbox cqrs.Inbox, consumer string, s *saga.Saga, e cqrs.Event) (cqrs.Outcome, error) {
	if !m.Concerns(s.Name(), reflect.TypeOf(e.Body), e.Meta.SagaID, e.Meta.SagaStep) {
		return cqrs.Processed, nil
	}
	return inbox.Handle(ctx, cqrs.Delivery{Consumer: consumer, Meta: e.Meta}, func(ctx context.Context) error { return m.Event(ctx, s, e) })
}

// Concerns tells whether an event may concern a definition: a version of it is started by the event, awaits it, or has the step of this name. Without
// this check, two definitions that react to the same types of events would load each other's instances for each of the events.
func (m *Manager) Concerns(definition string, event reflect.Type, sagaID, step string) bool {
	for _, s := range m.Sagas {
		if s.Name() == definition && (s.StartsWith(event) || awaits(s, event) || sagaID != "" && s.Has(step)) {
			return true
		}
	}
	return false
}

func awaits(s *saga.Saga, event reflect.Type) bool {
	return slices.ContainsFunc(s.AwaitedEvents(), func(a saga.AwaitInfo) bool { return a.Type == event })
}

// Event passes an event to the saga s: it starts an instance, answers a step, or completes a step that waits for it. Any other event changes nothing.
func (m *Manager) Event(ctx context.Context, s *saga.Saga, e cqrs.Event) error {
	if started, err := m.start(ctx, s, e); started || err != nil {
		return err
	}
	if e.Meta.SagaID != "" && e.Meta.SagaStep != "" {
		answer := saga.Answer{Event: e.Body, Step: e.Meta.SagaStep, Branch: e.Meta.Branch, CommandID: e.Meta.Causation}
		if own, err := m.reactOwn(ctx, s, e.Meta.SagaID, answer); own || err != nil {
			return err
		}
	}
	return m.deliver(ctx, s.Name(), e)
}

// start starts an instance with an event, or passes the event to an instance that one of the starting events has started. An instance uses the starting
// events of the version that it runs by. S is the newest version: to an instance of an older one, an event that starts s may be an answer or an awaited
// event, and the other way round.
func (m *Manager) start(ctx context.Context, s *saga.Saga, e cqrs.Event) (started bool, err error) {
	tell := func(version *saga.Saga, must bool) (bool, error) {
		if !version.Starts(e.Body) {
			return false, nil
		}
		subject := version.Subject(e.Body, e.Key)
		if subject == "" && e.Key != "" {
			return false, nil // OnSubject says that the event belongs to no subject
		}
		id := saga.ID(s.Name(), subject)
		if must {
			if _, err := m.Streams.History(ctx, saga.Category, id); errors.Is(err, cqrs.ErrNotFound) {
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
		return m.reactOwn(ctx, s, id, saga.Start{Event: e.Body, Subject: subject, MessageID: e.Meta.ID})
	}
	for _, version := range m.Sagas {
		if version.Name() == s.Name() && version.Version() != s.Version() {
			if started, err := tell(version, true); started || err != nil {
				return started, err
			}
		}
	}
	return tell(s, false)
}

// Timeout passes the message of a timer to its instance.
func (m *Manager) Timeout(ctx context.Context, t saga.Timeout) error {
	return m.react(ctx, nil, t.SagaID, t)
}

// react loads an instance, passes the input to the engine, and records and sends the reaction. Only is the definition that the input is
// for; nil is the definition of the instance.
func (m *Manager) react(ctx context.Context, only *saga.Saga, id string, in saga.Input) error {
	_, err := m.reactOwn(ctx, only, id, in)
	return err
}

// reactOwn is react, and tells whether the instance belongs to the definition only.
func (m *Manager) reactOwn(ctx context.Context, only *saga.Saga, id string, in saga.Input) (own bool, err error) {
	history, err := m.Streams.History(ctx, saga.Category, id)
	if err != nil && !errors.Is(err, cqrs.ErrNotFound) {
		return false, err
	}
	state := saga.Rebuild(id, history)
	definition := only
	if state.Version > 0 {
		if only != nil && state.Definition != only.Name() {
			return false, nil // a command of another saga caused this event
		}
		if definition, err = m.find(state.Definition, state.DefVersion); err != nil {
			return true, err
		}
		if start, starts := in.(saga.Start); starts && start.Parent == nil && !definition.Starts(start.Event) {
			return false, nil // the event does not start this version
		}
	} else if _, starts := in.(saga.Start); !starts {
		return false, nil
	}
	// Events and commands have the saga's id, whichever message has brought the input.
	at := cqrs.MetaFromContext(ctx)
	at.SagaID, at.SagaStep, at.Branch = id, "", ""
	ctx = cqrs.WithMeta(ctx, at)
	reaction, err := definition.React(state, in, saga.Env{Now: m.now(), Open: m.Open})
	if err != nil || len(reaction.Events)+len(reaction.Timers) == 0 {
		return true, err
	}
	if isInline(ctx) && len(reaction.Waits)+len(reaction.EndedWaits) > 0 {
		return true, errNotInline
	}
	return true, m.carryOut(ctx, state, reaction)
}

func (m *Manager) now() time.Time {
	if m.Clock == nil {
		return time.Now()
	}
	return m.Clock()
}

func (m *Manager) carryOut(ctx context.Context, before saga.State, r saga.Reaction) error {
	facts := make([]any, len(r.Events))
	for i, f := range r.Events {
		facts[i] = f
	}
	if err := m.Streams.Record(ctx, saga.Category, before.ID, before.Version, facts); err != nil {
		return err
	}
	if m.Rows != nil && (before.Version == 0 || before.Status != r.State.Status) {
		history, err := m.Streams.History(ctx, saga.Category, before.ID) // with the times at which the events were recorded
		if err != nil {
			return err
		}
		if err := m.Rows.Save(ctx, saga.Rebuild(before.ID, history)); err != nil {
			return err
		}
	}
	for _, c := range r.Commands {
		meta := cqrs.Meta{ID: c.ID, SagaID: before.ID}
		if !c.Notice {
			meta.SagaStep, meta.Branch, meta.ExpiresAt = c.MessageStep(), c.Branch, c.ExpiresAt
		}
		if err := m.Commands.Send(ctx, cqrs.Command{Body: c.Body, Meta: meta}); err != nil {
			return fmt.Errorf("send %s: %w", c.Step, err)
		}
	}
	for _, t := range r.Timers {
		meta := cqrs.Meta{ID: t.ID, SagaID: before.ID}
		if err := m.Commands.Send(ctx, cqrs.Command{Body: t.Timeout, Meta: meta, DueAt: t.DueAt}); err != nil {
			return fmt.Errorf("set the timer of %s: %w", t.Timeout.Step, err)
		}
	}
	if m.Timers != nil {
		if err := m.Timers.Stop(ctx, r.CancelledTimers); err != nil {
			return err
		}
	}
	if err := m.changeWaits(ctx, r); err != nil {
		return err
	}
	if r.State.Parent != nil && r.State.Status.Ended() && before.Status != r.State.Status {
		return m.tellParent(ctx, r.State)
	}
	return nil
}

func (m *Manager) find(name string, version int) (*saga.Saga, error) {
	var known []string
	for _, s := range m.Sagas {
		if s.Name() == name && s.Version() == version {
			return s, nil
		}
		known = append(known, fmt.Sprintf("%s v%d", s.Name(), s.Version()))
	}
	return nil, fmt.Errorf("%s v%d (listed: %s): %w", name, version, strings.Join(known, ", "), saga.ErrNotDefined)
}
