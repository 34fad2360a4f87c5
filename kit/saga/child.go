package saga

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/millrace/millrace/kit/cqrs"
)

// Child is a saga that a step of another saga, its parent, starts. ChildOf makes one.
type Child[D any] struct {
	definition *Saga
	event      reflect.Type
	start      func(D, int) any
	completed  func(*D, json.RawMessage) error // nil: the parent stores nothing of the child's data
}

// ChildOf returns a Child that is started with the event that start returns, which must be a starting event of the definition. Attempt is 1; it grows
// when a child after the pivot was compensated and an operator retries the step. Start should then derive other ids for external services. Completed
// stores some of the data that the child ends with; nil stores nothing. The definitions of the parent and of the child must both be registered.
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

// Saga returns the compiled definition of the child.
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

// noCommand is the compensation of a step with a child. It marks that the step has a compensation, and is not called: childCommand makes the command.
func (*child) noCommand(json.RawMessage, string) (cqrs.Keyed, error) { return nil, errNoCommand }

var errNoCommand = fmt.Errorf("a child saga is compensated by its id")

// Parent is the saga that started a child saga, and the step that did.
type Parent struct {
	SagaID string `json:"saga_id"`
	Step   string `json:"step"`

	// Root is the id of the saga at the top of the tree, which has no parent.
	Root string `json:"root"`
}

// StartChild is the command with which a saga starts a child. If the child has ended already, the child tells its parent its end again.
type StartChild struct {
	SagaID     string          `json:"saga_id"` // of the child
	Definition string          `json:"definition"`
	Version    int             `json:"version"`
	Subject    string          `json:"subject"`
	EventType  string          `json:"event_type"` // a Go type
	Event      json.RawMessage `json:"event"`
	Parent     Parent          `json:"parent"`
}

// CompensateChild is the command with which a saga compensates a child. It contains the StartChild command, because it may overtake that command: the
// child is then started and compensated, and the later StartChild finds it compensated.
type CompensateChild struct {
	StartChild
	Reason string `json:"reason"`
}

// EndChild is the command with which a child saga tells its parent how it ended.
type EndChild struct {
	ParentID string          `json:"parent_id"`
	Step     string          `json:"step"`
	ChildID  string          `json:"child_id"`
	Status   Status          `json:"status"`
	Reason   string          `json:"reason,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// Key returns the id of the child, so that its commands are handled in order.
func (c StartChild) Key() string { return c.SagaID }

// Key returns the id of the parent, so that its commands are handled in order.
func (c EndChild) Key() string { return c.ParentID }

// ChildEnded tells a saga that the child of a step has ended.
type ChildEnded struct{ EndChild }

// Compensate tells a child saga to compensate its steps, also after it was completed. React returns an error that wraps ErrTooLate if the child's
// pivot was sent.
type Compensate struct{ Reason string }

func (ChildEnded) input() {}
func (Compensate) input() {}

// Children returns the sagas that steps of the saga start.
func (s *Saga) Children() []*Saga { return s.children }

// StartEvent decodes the starting event of a child from the command of its parent. It fails if no event of that Go type starts the saga.
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

// ChildID returns the id of the present child saga of a step, or of the next one if none was started. After an operator has retried a refused child, it
// is the id of the new child.
func (s *State) ChildID(step string) string {
	generation := 0
	if st := s.Step(step); st != nil { // a fallback has no state before its command is sent
		generation = st.Generation
	}
	return commandID(s.ID, step, "child", generation)
}

// childCommand returns the command that starts the child of a step, or compensates it.
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
		if !m.state.Compensating { // the child is compensated because a fallback replaces it
			reason = st.name + ": no answer in time"
		}
		return CompensateChild{start, reason}, nil
	}
	return start, nil
}

// childEnded handles the end of a step's child: it completes or refuses the step, or completes its compensation.
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

// compensate compensates a child saga that is running or completed.
func (m *machine) compensate(in Compensate) error {
	switch {
	case m.state.Compensating:
		return nil // it is being compensated already, and tells its parent when it has ended
	case m.beyond():
		return ErrTooLate
	}
	m.record(CancelRequested(in))
	return m.compensateAll()
}
