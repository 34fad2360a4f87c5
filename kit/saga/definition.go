// Package saga is the engine of sagas (process managers). A Definition is data: steps with their commands, compensations and deadlines.
// React is a pure function from a state and an input to events, commands and timers: it does no I/O, reads no clock and uses no random
// numbers. Package manager runs definitions, package sagatest tests them.
package saga

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Definition is a process, written as one literal. D is what an instance remembers; it is stored as JSON.
type Definition[D any] struct {
	// Name and Version stand in the history of every instance. An instance ends with the version that it started
	// with: to change a process while instances run, list the old version beside the new one.
	Name    string
	Version int

	// Start is the event that begins an instance, and what is remembered of it. Its aggregate is the saga's subject;
	// there is one instance a subject.
	Start Expected[D]

	// Steps are taken in this order, and undone in the reverse one.
	Steps []Step[D]

	// OnCompensated tells the subject, when everything is undone, that it came to nothing, and why. It is asked until it answers.
	OnCompensated FinalStep[D]

	// AlertAfter is how many times something is asked in vain before the saga is reported as stuck; 0 means 8. It goes
	// on being asked.
	AlertAfter int
}

// Step is one command and what may come of it.
type Step[D any] struct {
	// Name is what people see: two words, imperative, lower case.
	Name string

	// Action makes the command.
	Action func(D) cqrs.Keyed

	// Completed is the event that ends the step well.
	Completed Expected[D]

	// Refused are the events that say no: nothing was done, and what came before is undone.
	Refused []Refusal

	// Compensation makes the compensating command. It must succeed where nothing was done, and be repeatable.
	Compensation func(D) cqrs.Keyed

	// Compensated is the event that ends the compensation.
	Compensated Expected[D]

	// Timeout is how long an answer may take. After that the step is in doubt: it is undone, unless it is the pivot or
	// retriable; those are asked again, with growing pauses.
	Timeout time.Duration

	// Fallback is another way to the same end, of a step before the pivot. Nil: there is none.
	Fallback *Fallback[D]

	// Pivot marks the step after which there is no way back.
	Pivot bool

	// Retriable marks a step after the pivot: it is asked until it is done.
	Retriable bool
}

// Fallback stands in for a step. What the step may have done all the same is undone first; what the fallback does is undone
// like any step. Its first fields are those of a Step.
type Fallback[D any] struct {
	Name         string
	Action       func(D) cqrs.Keyed
	Completed    Expected[D]
	Refused      []Refusal
	Compensation func(D) cqrs.Keyed
	Compensated  Expected[D]
	Timeout      time.Duration

	// WhenOpen has it stand in while the breaker of the step's destination is open; the step is then not even asked.
	WhenOpen bool

	// WhenTimedOut has it stand in when the step did not answer in time, or its participant gave up on the command.
	WhenTimedOut bool

	// WhenRefused has it stand in when the step is refused for one of these reasons.
	WhenRefused []string
}

// step is the fallback as a step of its own.
func (f Fallback[D]) step() Step[D] {
	return Step[D]{Name: f.Name, Action: f.Action, Completed: f.Completed, Refused: f.Refused, Compensation: f.Compensation, Compensated: f.Compensated, Timeout: f.Timeout}
}

// FinalStep is the last command of a saga that was undone.
type FinalStep[D any] struct {
	Name      string
	Action    func(d D, reason string) cqrs.Keyed
	Completed Expected[D]
	Timeout   time.Duration
}

// Expected is an event of one type and what the saga remembers of it.
type Expected[D any] struct {
	event reflect.Type
	apply func(*D, any) // nil: nothing is to be remembered
}

// On waits for an E and remembers something of it.
func On[E, D any](remember func(*D, E)) Expected[D] {
	return Expected[D]{reflect.TypeFor[E](), func(d *D, e any) { remember(d, e.(E)) }}
}

// Event waits for an E of which nothing needs to be remembered.
func Event[E, D any]() Expected[D] { return Expected[D]{event: reflect.TypeFor[E]()} }

// Refusal is an event of one type and the reason that it gives.
type Refusal struct {
	event  reflect.Type
	reason func(any) string
}

// RefusedBy waits for an E that refuses the step.
func RefusedBy[E any](reason func(E) string) Refusal {
	return Refusal{reflect.TypeFor[E](), func(e any) string { return reason(e.(E)) }}
}

// Check finds every fault of the definition. The service does not start with one.
func (d Definition[D]) Check() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("saga %s: "+format, append([]any{d.Name}, args...)...))
	}
	if d.Name == "" || d.Version < 1 {
		fault("needs a name and a version from 1")
	}
	if d.Start.event == nil {
		fault("has no event that starts it")
	}
	if len(d.Steps) == 0 {
		fault("has no steps")
	}
	if d.OnCompensated.Name == "" || d.OnCompensated.Action == nil || d.OnCompensated.Completed.event == nil || d.OnCompensated.Timeout <= 0 {
		fault("needs an Abort with name, command, completing event and time")
	}
	names, pivot := map[string]bool{d.OnCompensated.Name: true}, -1
	form := func(i int, s Step[D]) {
		if s.Name == "" || names[s.Name] {
			fault("step %d needs a name of its own, has %q", i+1, s.Name)
		}
		names[s.Name] = true
		if s.Action == nil || s.Completed.event == nil || s.Timeout <= 0 {
			fault("step %q needs a command, a completing event and a time", s.Name)
		}
	}
	for i, s := range d.Steps {
		form(i, s)
		if s.Pivot {
			if pivot >= 0 {
				fault("steps %q and %q are both the pivot", d.Steps[pivot].Name, s.Name)
			}
			pivot = i
		}
		switch after := pivot >= 0 && i > pivot; {
		case after && (!s.Retriable || s.Compensation != nil):
			fault("step %q comes after the pivot: it must be retriable and have no compensation", s.Name)
		case !after && s.Retriable:
			fault("step %q is retriable, but stands before the pivot", s.Name)
		case !after && !s.Pivot && (s.Compensation == nil || s.Compensated.event == nil):
			fault("step %q comes before the pivot: it needs a compensation and the event that ends it", s.Name)
		}
		if f := s.Fallback; f != nil {
			form(i, f.step())
			switch {
			case pivot >= 0:
				fault("step %q is the pivot or comes after it: it is asked until it answers and has no fallback", s.Name)
			case f.Compensation == nil || f.Compensated.event == nil:
				fault("fallback %q needs a compensation and the event that ends it", f.Name)
			case !f.WhenOpen && !f.WhenTimedOut && len(f.WhenRefused) == 0:
				fault("fallback %q would never be taken: say when", f.Name)
			}
		}
	}
	return errors.Join(faults...)
}
