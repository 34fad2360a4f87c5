package saga

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/kit/cqrs"
)

// Saga is a definition made ready for the engine, its type parameter gone.
type Saga struct {
	name       string
	version    int
	stuckAfter int
	start      on
	steps      []step // the last one is the abort step
	check      error
}

type step struct {
	name             string
	do, undo         func(data json.RawMessage, reason string) (cqrs.Keyed, error)
	completed        on
	undone           on
	refused          []Refusal
	within           time.Duration
	pivot, retriable bool

	fallback               int // its index, or 0: no fallback stands first
	standsIn               bool
	whenOpen, whenTimedOut bool
	whenRefused            []string
}

// on remembers something of an event in data that it gets and returns as JSON.
type on struct {
	event    reflect.Type
	remember func(data json.RawMessage, event any) (json.RawMessage, error)
}

// New makes a definition ready. Its faults are kept for Check.
func New[D any](d Definition[D]) *Saga {
	s := &Saga{name: d.Name, version: d.Version, stuckAfter: d.AlertAfter, start: erase(d.Start), check: d.Check()}
	if s.stuckAfter == 0 {
		s.stuckAfter = 8
	}
	for _, st := range d.Steps {
		s.steps = append(s.steps, eraseStep(st))
		if f := st.Fallback; f != nil {
			first := &s.steps[len(s.steps)-1]
			first.fallback, first.whenOpen, first.whenTimedOut, first.whenRefused = len(s.steps), f.WhenOpen, f.WhenTimedOut, f.WhenRefused
			instead := eraseStep(f.step())
			instead.standsIn = true
			s.steps = append(s.steps, instead)
		}
	}
	abort := step{name: d.OnCompensated.Name, completed: erase(d.OnCompensated.Completed), within: d.OnCompensated.Timeout, retriable: true}
	abort.do = func(data json.RawMessage, reason string) (cqrs.Keyed, error) {
		var v D
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, err
		}
		return d.OnCompensated.Action(v, reason), nil
	}
	s.steps = append(s.steps, abort)
	return s
}

func eraseStep[D any](st Step[D]) step {
	return step{
		name: st.Name, completed: erase(st.Completed), undone: erase(st.Compensated), refused: st.Refused,
		do: command(st.Action), undo: command(st.Compensation), within: st.Timeout, pivot: st.Pivot, retriable: st.Retriable,
	}
}

func erase[D any](o Expected[D]) on {
	return on{o.event, func(data json.RawMessage, event any) (json.RawMessage, error) {
		if o.apply == nil && len(data) > 0 {
			return nil, nil
		}
		var d D
		if len(data) > 0 {
			if err := json.Unmarshal(data, &d); err != nil {
				return nil, err
			}
		}
		if o.apply != nil {
			o.apply(&d, event)
		}
		return json.Marshal(d)
	}}
}

func command[D any](f func(D) cqrs.Keyed) func(json.RawMessage, string) (cqrs.Keyed, error) {
	if f == nil {
		return nil
	}
	return func(data json.RawMessage, _ string) (cqrs.Keyed, error) {
		var d D
		if err := json.Unmarshal(data, &d); err != nil {
			return nil, err
		}
		return f(d), nil
	}
}

// Name is the definition's.
func (s *Saga) Name() string { return s.name }

// Version is the definition's.
func (s *Saga) Version() int { return s.version }

// Check returns the definition's faults.
func (s *Saga) Check() error { return s.check }

// LongestWait is the longest time that a step may take to be answered, and that step.
func (s *Saga) LongestWait() (step string, d time.Duration) {
	for _, st := range s.steps {
		if st.within > d {
			step, d = st.name, st.within
		}
	}
	return step, d
}

// Starts tells whether an event begins an instance.
func (s *Saga) Starts(event any) bool { return reflect.TypeOf(event) == s.start.event }

// EventTypes returns the Go types of all the events that the saga reacts to, the starting one first.
func (s *Saga) EventTypes() []reflect.Type {
	types, seen := []reflect.Type{}, map[reflect.Type]bool{}
	add := func(t reflect.Type) {
		if t != nil && !seen[t] {
			seen[t] = true
			types = append(types, t)
		}
	}
	add(s.start.event)
	for _, st := range s.steps {
		add(st.completed.event)
		for _, r := range st.refused {
			add(r.event)
		}
		add(st.undone.event)
	}
	return types
}

// Sent is a command that a saga sends: at which step, and of which Go type.
type Sent struct {
	Step string
	Undo bool
	Type reflect.Type
}

// Sends returns the commands that the saga sends, as far as the definition's functions tell without data: one that cannot make its command
// from the zero value of the saga's data is left out.
func (s *Saga) Sends() (all []Sent) {
	add := func(step string, undo bool, make func(json.RawMessage, string) (cqrs.Keyed, error)) {
		defer func() { _ = recover() }() // it needs data: an element of an empty list, for example
		if make == nil {
			return
		}
		if c, err := make(json.RawMessage("{}"), ""); err == nil && c != nil {
			all = append(all, Sent{step, undo, reflect.TypeOf(c)})
		}
	}
	for _, st := range s.steps {
		add(st.name, false, st.do)
		add(st.name, true, st.undo)
	}
	return all
}

// namespace makes ids of sagas and their commands differ from other ids that are derived in the same way.
var namespace = uuid.MustParse("6c7b1b5e-7d0f-5b38-9a53-6d696c6c7261")

// ID is the id of the instance of a definition for a subject. It is derived, so that an event that starts one twice finds
// the first.
func ID(definition, subject string) string {
	return uuid.NewSHA1(namespace, []byte(definition+"/"+subject)).String()
}

// commandID is derived too: a reaction that is computed again sends the same message again.
func commandID(sagaID, step string, branch cqrs.Branch, attempt int) string {
	return uuid.NewSHA1(namespace, fmt.Appendf(nil, "%s/%s/%s/%d", sagaID, step, branch, attempt)).String()
}

// TimerID is the id of the message of a timer that was set with a command, or late, while its answer was being waited for.
func TimerID(commandID string, late bool) string {
	name := "timer/" + commandID
	if late {
		name = "late " + name
	}
	return uuid.NewSHA1(namespace, []byte(name)).String()
}
