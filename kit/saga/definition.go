// Package saga is the engine of sagas (process managers). A Definition is data: steps with their commands, compensations and deadlines.
// React is a pure function from a state and an input to events, commands and timers: it does no I/O, reads no clock and uses no random
// numbers. Package manager runs definitions, package sagatest tests them.
package saga

import (
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

	// StartAny are other events, each of which begins an instance too, if there is none for its subject yet.
	StartAny []Expected[D]

	// StartAll are events that are all needed, in any order. It stands instead of Start. Nil: Start is enough.
	StartAll *StartAll[D]

	// Steps are taken in this order, and compensated in the reverse order. Each is a stage of its own, or a stage of several Parallel steps.
	Steps []Step[D]

	// OnCompensated is the last command of a saga after all compensations: it gives its subject the reason. It is sent again until it is answered.
	OnCompensated FinalStep[D]

	// AlertAfter is the number of commands of a step without an answer after which the saga is reported as stuck; 0 means 8. The command is
	// still sent again.
	AlertAfter int
}

// StartAll has the first of several events begin an instance, whichever it is, which then waits for the others as its first stage. Their steps are
// named after the events: "await Paid". An event of another aggregate needs OnSubject to find the instance.
type StartAll[D any] struct {
	Events []Expected[D] // two or more

	// Timeout is the time in which all must come; then the saga is compensated.
	Timeout time.Duration
}

// Step is one command and what may come of it.
type Step[D any] struct {
	// Name is what people see: two words, imperative, lower case.
	Name string

	// Action makes the command.
	Action func(D) cqrs.Keyed

	// Completed is the event that ends the step well.
	Completed Expected[D]

	// Refused are the events that refuse the step: it had no effect, and the steps before it are compensated.
	Refused []Refusal

	// Compensation makes the compensating command. It must succeed where nothing was done, and be repeatable.
	Compensation func(D) cqrs.Keyed

	// Compensated is the event that ends the compensation.
	Compensated Expected[D]

	// Timeout is the time that an answer may take. After that the step is in doubt: it is compensated. The command of the pivot, or of a
	// retriable step, is sent again instead, with growing pauses.
	Timeout time.Duration

	// Fallback is another way to the same end, of a step before the pivot. Nil: there is none.
	Fallback *Fallback[D]

	// Pivot marks the step after which the saga is not compensated.
	Pivot bool

	// Retriable marks a step after the pivot: its command is sent again until the step is completed.
	Retriable bool

	// Delay makes a step that only waits, for seconds or months: it is completed when the time is up. It is called when the stage of the
	// step begins; 0 or less is over at once. Of the other fields only Name and SkipIf are set.
	Delay func(D) time.Duration

	// Until has the command sent again, at intervals, until a condition on the data holds: to poll an external service. The command must
	// have no effect, so the step has no compensation. Nil: the first completing event completes the step.
	Until *Until[D]

	// Signal makes a step that waits for a person. Of the other fields only Name, SkipIf, Timeout, Reminder and a Fallback with WhenTimedOut
	// are set.
	Signal *Signal[D]

	// ForEach has the step taken once for each item of a list in the data. Nil: it is taken once.
	ForEach *ForEach[D]

	// Await makes a step that waits for an event which no command of the saga causes. Of the other fields only Name, SkipIf, Timeout, Reminder
	// and a Fallback with WhenTimedOut are set.
	Await *Await[D]

	// Child makes another saga the action of the step: the step is completed or refused by how that ends, and is compensated by compensating it,
	// also after it was completed. Of the other fields only Name, Timeout, Pivot, Retriable, SkipIf, ForEach and Fallback are set.
	Child *Child[D]

	// Reminder is a command that is sent while a step with Signal or Await still waits. Nil: none is.
	Reminder *Reminder[D]

	// SkipIf tells, when the stage of the step begins, that the step is not needed: its command is not sent, and there is nothing to
	// compensate. It must be a pure function of the data. Nil: the step is always taken.
	SkipIf func(D) bool

	// Parallel makes a stage of several steps. Their commands are sent in one transaction, and the next stage begins when all of them are
	// completed. If one of them is refused or times out, and has no fallback, the others that are in flight are in doubt: they are
	// compensated together with those that are completed, and then the stages before. No other field is set beside it, a stage is not nested
	// in another one, and the pivot is not in one.
	Parallel []Step[D]
}

// Until repeats a step. An answer in time, or none, is followed by the next command, and the answers count as one as soon as the condition holds.
type Until[D any] struct {
	// Holds is a pure function of the data, after what Completed remembers of an answer.
	Holds func(D) bool

	// Every is the time from an answer to the next command.
	Every time.Duration

	// Attempts bounds the commands. When the condition does not hold after them, the step is refused; if it is retriable, it is reported as
	// stuck and goes on. A fallback is taken if it has WhenTimedOut.
	Attempts int
}

// ForEach takes a step once for each item of a list in the data. Each item is a branch of its own, with its command, its answers, its deadline,
// its fallback and its compensation; "ship parcel#2" is the name of the second. The functions of the step, and of its fallback, that make commands
// get the data with the item chosen. What Completed remembers is stored in the data of the whole saga, so its event must tell which item it
// means.
type ForEach[D any] struct {
	// Items is the number of items. It is called when the stage of the step begins; with 0 the step is skipped.
	Items func(D) int

	// Item chooses item n, from 0, in a copy of the data. It must be a pure function.
	Item func(d D, n int) D

	// AtOnce bounds the items in flight, on the way forward and on the way back.
	AtOnce int

	// Max bounds the items, and so the saga's state. With more, the step is refused; a retriable one is reported as stuck.
	Max int
}

// Signal is sent to a saga by a person: by the API, the command line, or the form on the saga's page. If it does not arrive within the step's
// Timeout, the step is refused, unless it has a fallback or is optional.
type Signal[D any] struct {
	// Name is that of the signal in addresses: lower case, digits and dashes. A definition has one step for it.
	Name string

	// Roles say who may send it: one of them is needed. "operator" is a role.
	Roles []string

	// Received has the type of the payload, a struct with JSON names, and the function that stores it in the data.
	Received Expected[D]

	// Optional has the saga go on when the time is up. A step after the pivot must be optional.
	Optional bool
}

// Await is an event of this service, or of another one, that is correlated with the saga by a key: an order's id, a parcel's number. If it does not
// arrive within the step's Timeout, the step is refused, unless it has a fallback or is optional.
//
// An event that comes before the saga waits for it is kept until then, for as long as the setting SAGA_EVENT_RETENTION says. One event completes
// one step: if several instances wait for the same key, that of the one which has waited longest. An event that a command of an instance of the same
// definition caused is an answer to that instance, and completes no wait.
type Await[D any] struct {
	// Received has the type of the event, and the function that stores something of it in the data.
	Received Expected[D]

	// Key is what the event's key must be. It is called when the stage of the step begins; without a key the step is refused.
	Key func(D) string

	// EventKey is the event's key. Its zero value is the key of the message: for an event of this service the id of its aggregate.
	EventKey EventKey

	// Optional has the saga go on when the time is up. A step after the pivot must be optional.
	Optional bool
}

// EventKey tells the key of an event of one type.
type EventKey struct {
	event reflect.Type
	key   func(any) string
}

// KeyOf makes an EventKey.
func KeyOf[E any](key func(E) string) EventKey {
	return EventKey{reflect.TypeFor[E](), func(e any) string { return key(e.(E)) }}
}

// Reminder is a command that nobody waits for: the step goes on waiting, whatever its answer is.
type Reminder[D any] struct {
	// After is the time from the beginning of the step. It is shorter than the step's Timeout.
	After time.Duration

	// Action makes the command.
	Action func(D) cqrs.Keyed
}

// Fallback is the alternative to a step. A step that may have had an effect is compensated first. The fallback is compensated like any step. Its
// first fields are those of a Step.
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

// FinalStep is the last command of a compensated saga.
type FinalStep[D any] struct {
	Name      string
	Action    func(d D, reason string) cqrs.Keyed
	Completed Expected[D]
	Timeout   time.Duration
}

// Expected is an event of one type and what the saga remembers of it.
type Expected[D any] struct {
	event    reflect.Type
	apply    func(*D, any)    // nil: nothing is to be remembered
	subject  func(any) string // of one that starts a saga; nil: the key of its message
	byParent bool             // it starts a child saga, and is no message
}

// On waits for an E and remembers something of it.
func On[E, D any](remember func(*D, E)) Expected[D] {
	return Expected[D]{event: reflect.TypeFor[E](), apply: func(d *D, e any) { remember(d, e.(E)) }}
}

// OnSubject is On for an event that starts a saga, and tells its subject, which is the key of its message otherwise. An event with an empty subject
// starts none.
func OnSubject[E, D any](subject func(E) string, remember func(*D, E)) Expected[D] {
	started := On(remember)
	started.subject = func(e any) string { return subject(e.(E)) }
	return started
}

// ByParent is On for a saga that only other sagas start, as a Child. E is what they tell it.
func ByParent[E, D any](remember func(*D, E)) Expected[D] {
	started := On(remember)
	started.byParent = true
	return started
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

// step is the fallback as a step of its own.
func (f Fallback[D]) step() Step[D] {
	return Step[D]{Name: f.Name, Action: f.Action, Completed: f.Completed, Refused: f.Refused, Compensation: f.Compensation, Compensated: f.Compensated, Timeout: f.Timeout}
}
