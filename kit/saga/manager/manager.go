// Package manager runs sagas: it loads an instance from its event stream, gives the engine what has happened, stores the events that the
// engine decides on, and sends the commands and timers, all in the unit of work of the message that is handled.
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

// ErrRole refuses a signal of a person without a role for it.
var ErrRole = errors.New("one of these roles is needed")

// Streams is the event store as the manager uses it, inside a unit of work.
type Streams interface {
	// History returns a stream's events, oldest first. The error wraps cqrs.ErrNotFound if there are none.
	History(ctx context.Context, category, id string) ([]cqrs.Event, error)

	// Record adds facts after the first expected ones; somebody else's having done so is cqrs.ErrConflict, then or
	// at the commit.
	Record(ctx context.Context, category, id string, expected int, facts []any) error
}

// Timers holds commands back that are due later.
type Timers interface {
	// Stop withdraws delayed messages. One that is on its way already arrives all the same.
	Stop(ctx context.Context, messageIDs []string) error
}

// Rows is the list of instances, which is written with them.
type Rows interface {
	// Save keeps where an instance stands, when the unit of work of ctx commits.
	Save(ctx context.Context, s saga.State) error
}

// Manager runs sagas. Every method works inside the unit of work of its context.
type Manager struct {
	Sagas    []*saga.Saga // old versions that still have running instances included
	Streams  Streams
	Rows     Rows  // nil: nobody lists them
	Waits    Waits // nil: no definition waits for events
	Commands cqrs.Commands
	Timers   Timers     // nil: a timer that is of no use any more fires, and changes nothing
	Clock    cqrs.Clock // nil: time.Now

	// Open tells whether the breaker of a command's destination is open, as far as this instance knows. Nil: none is.
	Open func(command cqrs.Keyed) bool

	// StartsInline tells whether commands reach their handlers even if the broker is away, because this process handles all of them. Then the first event
	// of an aggregate may start an instance in the unit of work that records it. Nil: none does.
	StartsInline func() bool
}

// Handlers are the commands that sagas themselves handle: their timers, and what parents and children tell each other.
func (m *Manager) Handlers() []cqrs.Handler {
	return cqrs.ForAggregate(saga.Category,
		cqrs.Handle("TimeOutStep", m.Timeout), cqrs.Handle("StartChildSaga", m.startChild), cqrs.Handle("CompensateChildSaga", m.compensateChild),
		cqrs.Handle("EndChildSaga", func(ctx context.Context, c saga.EndChild) error {
			return m.react(ctx, nil, c.ParentID, saga.ChildEnded{EndChild: c})
		}),
	)
}

// Receive has a consumer's saga handle an event once.
func (m *Manager) Receive(ctx context.Context, inbox cqrs.Inbox, consumer string, s *saga.Saga, e cqrs.Event) (cqrs.Outcome, error) {
	if !m.Concerns(s.Name(), reflect.TypeOf(e.Body), e.Meta.SagaID, e.Meta.SagaStep) {
		return cqrs.Processed, nil
	}
	return inbox.Handle(ctx, cqrs.Delivery{Consumer: consumer, Meta: e.Meta}, func(ctx context.Context) error { return m.Event(ctx, s, e) })
}

// Concerns tells whether an event may be some of a definition's business: it starts an instance, is awaited, or answers a step of this name. Two
// definitions that react to the same types of events would otherwise load each other's instances for each of them.
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

// Event tells the saga s of an event. It begins an instance, answers one, or is none of the saga's business.
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

// start begins an instance with an event, or tells one that has begun with another one. An instance knows the events that start the version that it
// has begun with. S is the newest one: to an instance of another version, an event that starts s may be an answer or awaited, and the other way round.
func (m *Manager) start(ctx context.Context, s *saga.Saga, e cqrs.Event) (started bool, err error) {
	tell := func(version *saga.Saga, must bool) (bool, error) {
		if !version.Starts(e.Body) {
			return false, nil
		}
		subject := version.Subject(e.Body, e.Key)
		if subject == "" && e.Key != "" {
			return false, nil // OnSubject says that it belongs to none
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

// Timeout tells an instance that an answer is overdue.
func (m *Manager) Timeout(ctx context.Context, t saga.Timeout) error {
	return m.react(ctx, nil, t.SagaID, t)
}

// react loads an instance, asks the engine, and records and sends what it says. Only is the definition that the input is
// meant for; nil means whichever the instance has.
func (m *Manager) react(ctx context.Context, only *saga.Saga, id string, in saga.Input) error {
	_, err := m.reactOwn(ctx, only, id, in)
	return err
}

// reactOwn is react, and tells whether the instance is one of only.
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
			return false, nil // it does not start this version
		}
	} else if _, starts := in.(saga.Start); !starts {
		return false, nil
	}
	// Facts and commands bear the saga's id, whatever message brought the input.
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
		history, err := m.Streams.History(ctx, saga.Category, before.ID) // with the times that the facts got
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
