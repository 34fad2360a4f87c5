package saga

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/millrace/millrace/kit/cqrs"
)

// Child is a saga that a step of another one starts. It is made by ChildOf.
type Child[D any] struct {
	definition *Saga
	event      reflect.Type
	start      func(D, int) any
	completed  func(*D, json.RawMessage) error // nil: nothing is to be remembered
}

// ChildOf starts a saga with an event that start makes, which is one of those that start its definition. Attempt is 1, and more if a child after the
// pivot was refused and an operator has the step retried: ids for services outside that start derives should differ then. Completed remembers
// something of the data with which the child ends; nil: nothing. Both definitions are registered.
func ChildOf[D, C, E any](definition Definition[C], start func(d D, attempt int) E, completed func(*D, C)) *Child[D] {
	c := &Child[D]{definition: New(definition), event: reflect.TypeFor[E](), start: func(d D, attempt int) any { return start(d, attempt) }}
	if completed != nil {
		c.completed = func(d *D, data json.RawMessage) error {
			var child C
			if err := json.Unmarshal(data, &child); err != nil {
				return err
			}
			completed(d, child)
			return nil
		}
	}
	return c
}

// Saga is the child's definition.
func (c *Child[D]) Saga() *Saga { return c.definition }

// child is Child without its type parameter.
type child struct {
	saga      *Saga
	event     reflect.Type
	start     func(data json.RawMessage, attempt int) (json.RawMessage, error)
	completed func(data, child json.RawMessage) (json.RawMessage, error)
}

func eraseChild[D any](c *Child[D]) *child {
	return &child{
		saga: c.definition, event: c.event,
		start: func(data json.RawMessage, attempt int) (json.RawMessage, error) {
			var d D
			if err := json.Unmarshal(data, &d); err != nil {
				return nil, err
			}
			return json.Marshal(c.start(d, attempt))
		},
		completed: func(data, child json.RawMessage) (json.RawMessage, error) {
			if c.completed == nil {
				return nil, nil
			}
			var d D
			if err := json.Unmarshal(data, &d); err != nil {
				return nil, err
			}
			if err := c.completed(&d, child); err != nil {
				return nil, err
			}
			return json.Marshal(d)
		},
	}
}

// noCommand marks a step that has a compensation, the command of which childCommand makes.
func (*child) noCommand(json.RawMessage, string) (cqrs.Keyed, error) { return nil, errNoCommand }

var errNoCommand = fmt.Errorf("a child saga is compensated by its id")

// Parent is the saga and the step of which another saga is the action.
type Parent struct {
	SagaID string `json:"saga_id"`
	Step   string `json:"step"`

	// Root is the id of the first saga of them all.
	Root string `json:"root"`
}

// StartChild is the command with which a saga starts another one. If that has ended already, it says so again.
type StartChild struct {
	SagaID     string          `json:"saga_id"` // of the child
	Definition string          `json:"definition"`
	Version    int             `json:"version"`
	Subject    string          `json:"subject"`
	EventType  string          `json:"event_type"` // a Go type
	Event      json.RawMessage `json:"event"`
	Parent     Parent          `json:"parent"`
}

// CompensateChild is the command with which a saga compensates another one that it has started. It has all that StartChild has: one that it
// overtakes would find the child compensated.
type CompensateChild struct {
	StartChild
	Reason string `json:"reason"`
}

// EndChild is the command with which a saga tells its parent how it has ended.
type EndChild struct {
	ParentID string          `json:"parent_id"`
	Step     string          `json:"step"`
	ChildID  string          `json:"child_id"`
	Status   Status          `json:"status"`
	Reason   string          `json:"reason,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// Key keeps what happens to a child in order.
func (c StartChild) Key() string { return c.SagaID }

// Key keeps what happens to a parent in order.
func (c EndChild) Key() string { return c.ParentID }

// ChildEnded is how the child of a step has ended.
type ChildEnded struct{ EndChild }

// Compensate has a child saga compensated, also after it was completed.
type Compensate struct{ Reason string }

func (ChildEnded) input() {}
func (Compensate) input() {}

// Children are the sagas that steps start.
func (s *Saga) Children() []*Saga { return s.children }

// StartEvent decodes an event that starts the saga, of which StartChild has the Go type.
func (s *Saga) StartEvent(c StartChild) (any, error) {
	for _, start := range s.starts {
		if start.event.String() == c.EventType {
			event := reflect.New(start.event)
			if err := json.Unmarshal(c.Event, event.Interface()); err != nil {
				return nil, fmt.Errorf("saga %s: start with %s: %w", s.name, c.EventType, err)
			}
			return event.Elem().Interface(), nil
		}
	}
	return nil, fmt.Errorf("saga %s v%d is not started by %s", s.name, s.version, c.EventType)
}

// ChildID is the id of the child saga of a step, of the one that was started last or is started next.
func (s *State) ChildID(step string) string {
	generation := 0
	if st := s.Step(step); st != nil { // a fallback may not be there yet
		generation = st.Generation
	}
	return commandID(s.ID, step, "child", generation)
}

// childCommand makes the command that starts the child of a step, or compensates it.
func (m *machine) childCommand(st *step, branch cqrs.Branch, data json.RawMessage) (cqrs.Keyed, error) {
	event, err := st.child.start(data, m.state.Step(st.name).Generation+1)
	if err != nil {
		return nil, err
	}
	root := m.state.ID
	if m.state.Parent != nil {
		root = m.state.Parent.Root
	}
	start := StartChild{
		SagaID: m.state.ChildID(st.name), Definition: st.child.saga.name, Version: st.child.saga.version, Subject: m.state.Subject,
		EventType: st.child.event.String(), Event: event, Parent: Parent{m.state.ID, st.name, root},
	}
	if branch == cqrs.BranchCompensation {
		reason := m.state.Reason
		if !m.state.Compensating { // a fallback stands in for it
			reason = st.name + ": no answer in time"
		}
		return CompensateChild{start, reason}, nil
	}
	return start, nil
}

// childEnded completes or refuses the step whose child has ended, or its compensation.
func (m *machine) childEnded(in ChildEnded) error {
	i, st := m.find(in.Step), m.state.Step(in.Step)
	if i < 0 || st == nil || m.state.Status.Ended() || in.ChildID != m.state.ChildID(in.Step) {
		return nil
	}
	def := &m.saga.steps[i]
	switch {
	case st.Status == StepStatusInProgress && in.Status == StatusCompleted:
		data, err := def.child.completed(m.state.Data, in.Data)
		if err != nil {
			return err
		}
		m.stopLateTimer(st, cqrs.BranchAction)
		m.record(StepCompleted{Step: in.Step, Data: data})
		return m.forward(i)
	case st.Status == StepStatusInProgress && in.Status == StatusCompensated && def.retriable:
		if !st.childRefused {
			m.record(NeedsIntervention{Step: in.Step, Reason: in.Reason, ChildRefused: true})
		}
	case st.Status == StepStatusInProgress && in.Status == StatusCompensated:
		m.stopLateTimer(st, cqrs.BranchAction)
		m.record(StepRefused{Step: in.Step, Reason: in.Reason, Fallback: m.fallback(i, slices.Contains(def.whenRefused, in.Reason))})
		return m.away(i)
	case st.Status == StepStatusCompensating && in.Status == StatusCompensated:
		m.stopLateTimer(st, cqrs.BranchCompensation)
		m.record(StepCompensated{Step: in.Step})
		return m.away(i)
	}
	return nil
}

// compensate turns a child back that is running or completed.
func (m *machine) compensate(in Compensate) error {
	switch {
	case m.state.Compensating:
		return nil // it tells its parent when it has ended
	case m.beyond():
		return ErrTooLate
	}
	m.record(CancelRequested(in))
	return m.compensateAll()
}
