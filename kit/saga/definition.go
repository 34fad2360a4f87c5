// Package saga is the engine of sagas (process managers). A Definition is data: steps with their commands, compensations and timeouts.
// React is a pure function from a state and an input to events, commands and timers: it does no I/O, reads no clock and uses no random
// numbers. Package manager runs definitions, package sagatest tests them.
package saga

import (
	"reflect"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Definition describes a process as one literal. D is the data that an instance stores between its steps, as JSON.
type Definition[D any] struct {
	// Name and Version are recorded in the history of every instance. An instance runs to its end by the version that it started
	// with: to change a process while instances run, register the old version beside the new one. Version is 1 or more.
	Name    string
	Version int

	// Start is the event that starts an instance, with the function that stores some of the event in the data. The aggregate of the event is
	// the saga's subject. There is one instance for each subject.
	Start Expected[D]

	// StartAny are alternatives to Start: each of these events also starts an instance, unless its subject has one already.
	StartAny []Expected[D]

	// StartAll are events that the saga needs all of, in any order. It replaces Start and StartAny. Nil: one event of Start or StartAny is enough.
	StartAll *StartAll[D]

	// Steps run in this order and are compensated in the reverse order. Each entry is a stage: a single step, or several steps in Parallel.
	Steps []Step[D]

	// OnCompensated is the last command of a compensated saga, after all compensations. It tells the subject the reason, and is sent again until
	// it is answered.
	OnCompensated FinalStep[D]

	// AlertAfter is the number of attempts without an answer after which the saga is reported as stuck; 0 means 8. The command is sent
	// again even then. It holds for commands that are retried: of the pivot, of retriable steps, of compensations and of OnCompensated.
	AlertAfter int
}

// StartAll starts an instance with the first of several events, whichever comes first. The instance then waits for the remaining events in its first
// stage, in steps that are named after the Go types of the events, for example "await Paid". The event of another aggregate needs OnSubject, so that
// it finds the instance.
type StartAll[D any] struct {
	Events []Expected[D] // two or more

	// Timeout is how long the saga waits for all the events, from the first one on. After that the saga is compensated.
	Timeout time.Duration
}

// Step is one command with its possible answers, or a wait (Delay, Signal, Await), a child saga (Child) or a stage of steps (Parallel).
type Step[D any] struct {
	// Name is shown to operators and stored in the history: two words, imperative, lower case. It is unique in the definition.
	Name string

	// Action returns the command that the step sends.
	Action func(D) cqrs.Keyed

	// Completed is the event that completes the step.
	Completed Expected[D]

	// Refused are the events that refuse the step: it had no effect, so the steps before it are compensated, or its Fallback runs.
	Refused []Refusal

	// Compensation returns the compensating command. The command must succeed if the action had no effect, and must be idempotent.
	Compensation func(D) cqrs.Keyed

	// Compensated is the event that completes the compensation.
	Compensated Expected[D]

	// Timeout is how long the saga waits for an answer. After that the step is in doubt, because it may have had an effect: it is compensated,
	// and then the steps before it are, or its Fallback runs. The command of the pivot or of a retriable step is sent again instead, and so is
	// a compensation. The time to the next attempt doubles, up to five minutes or Timeout if that is longer, and is spread by 20% either way.
	Timeout time.Duration

	// Fallback is an alternative to a step before the pivot. Nil: there is none.
	Fallback *Fallback[D]

	// Pivot marks the point of no compensation: once the pivot is completed, the saga is never compensated. Once its command was sent, the saga
	// cannot be cancelled, but the participant can still refuse the pivot.
	Pivot bool

	// Retriable marks a step after the pivot. Its command is sent again until the step is completed.
	Retriable bool

	// Delay makes a step that only waits, for seconds or months, and is completed when that time is over. The function is called when the stage
	// of the step begins; with 0 or less the step is completed at once. The only other fields that may be set are Name and SkipIf.
	Delay func(D) time.Duration

	// DelayUntil is Delay until a time of the database's clock, for example the day before an appointment. With a time in the past the step is
	// completed at once.
	DelayUntil func(D) time.Time

	// Until sends the command again, at intervals, until a condition on the data holds: to poll an external service. The command must
	// have no effect, so the step has no compensation. Nil: the first completing event completes the step.
	Until *Until[D]

	// Signal makes a step that waits for a person to send a signal. The only other fields that may be set are Name, SkipIf, Timeout, Reminder and a
	// Fallback with WhenTimedOut.
	Signal *Signal[D]

	// ForEach runs the step once for each item of a list in the data. Nil: the step runs once.
	ForEach *ForEach[D]

	// Await makes a step that waits for an event which no command of the saga causes. The only other fields that may be set are Name, SkipIf,
	// Timeout, Reminder and a Fallback with WhenTimedOut.
	Await *Await[D]

	// Child makes another saga the action of the step. The step is completed when the child is completed, and refused when the child is
	// compensated. To compensate the step, the engine compensates the child, even if the child was completed. The only other fields that may be
	// set are Name, Timeout, Pivot, Retriable, SkipIf, ForEach and Fallback.
	Child *Child[D]

	// Reminder is a command that is sent while a step with Signal or Await still waits. Nil: there is no reminder.
	Reminder *Reminder[D]

	// SkipIf tells whether the step is not needed. It is called when the stage of the step begins. The command of a skipped step is not sent, and
	// a skipped step is not compensated. The function must be pure. Nil: the step always runs.
	SkipIf func(D) bool

	// Parallel makes a stage of several steps. Their commands are sent in one transaction, and the next stage begins when all of them are
	// completed. If one of the steps is refused or times out and has no fallback, the steps still in flight are in doubt: they are
	// compensated together with the completed ones, and then the stages before are compensated. No other field may be set beside Parallel. Stages
	// are not nested, and the pivot is never in one.
	Parallel []Step[D]
}

// Until repeats the command of a step. After an answer for which Holds is false, the next command is sent when Every has passed; after a Timeout, it
// is sent at once. The first answer for which Holds is true completes the step.
type Until[D any] struct {
	// Holds is a pure function of the data, as it is after Completed has stored an answer.
	Holds func(D) bool

	// Every is the time from an answer to the next command.
	Every time.Duration

	// Attempts is the greatest number of commands. If the condition does not hold after the last one, the step is refused; a retriable step is
	// reported as stuck and is repeated all the same. A Fallback runs in this case if it has WhenTimedOut.
	Attempts int
}

// ForEach runs a step once for each item of a list in the data. Each item is a branch of its own, with its command, its answers, its deadline,
// its fallback and its compensation. An item is named after the step and its number: "ship parcel#2" is the second one. The functions of the step, and
// of its fallback, that make commands get the data that Item returns. Completed stores its event in the data of the whole saga, so the event must tell
// the item that it belongs to.
type ForEach[D any] struct {
	// Items returns the number of items. It is called when the stage of the step begins. With 0 or less the step is skipped.
	Items func(D) int

	// Item returns a copy of the data in which item n, counted from 0, is selected. It must be a pure function.
	Item func(d D, n int) D

	// AtOnce is the greatest number of items in flight, for actions and for compensations. It is 1 or more.
	AtOnce int

	// Max is the greatest number of items, which bounds the size of the saga's state. With more items, the step is refused; a retriable step is
	// reported as stuck.
	Max int
}

// Signal is a decision that a person sends to a saga: by the API, the command line, or the form on the saga's page. If it does not arrive within the
// step's Timeout, the step times out and the saga is compensated, unless the step has a Fallback or is Optional.
type Signal[D any] struct {
	// Name is the name of the signal in URLs: lower case letters, digits and dashes. A definition has at most one step for each name.
	Name string

	// Roles may send the signal: a sender needs one of them. "operator" is a role. "customer" is not allowed.
	Roles []string

	// Received has the type of the payload, a struct with JSON names, and the function that stores the payload in the data.
	Received Expected[D]

	// Optional tells that the saga continues when the Timeout is over. A step after the pivot must be optional.
	Optional bool
}

// Await waits for an event of this service, or of another one, that is correlated with the saga by a key: an order's id, a parcel's number. If the event
// does not arrive within the step's Timeout, the step times out and the saga is compensated, unless the step has a Fallback or is Optional.
//
// An event that arrives before the saga waits for it is kept for the duration in the setting SAGA_EVENT_RETENTION. One event completes one step: if
// several instances wait for the same key, the event goes to the instance that has waited longest. An event that was caused by a command of an instance
// of the same definition is an answer to that instance, and completes no wait.
type Await[D any] struct {
	// Received has the type of the event, and the function that stores some of the event in the data.
	Received Expected[D]

	// Key returns the key that the event must have. It is called when the stage of the step begins. If the key is empty or longer than MaxKey, the step is
	// refused; an optional step waits until its Timeout instead.
	Key func(D) string

	// EventKey returns the key of an event. Its zero value uses the key of the message: for an event of this service, the id of its aggregate.
	EventKey EventKey

	// Optional tells that the saga continues when the Timeout is over. A step after the pivot must be optional.
	Optional bool
}

// EventKey extracts the key from events of one type. KeyOf makes one.
type EventKey struct {
	event reflect.Type
	key   func(any) string
}

// KeyOf returns the EventKey that calls a function on an event of type E.
func KeyOf[E any](key func(E) string) EventKey {
	return EventKey{reflect.TypeFor[E](), func(e any) string { return key(e.(E)) }}
}

// Reminder is a command without an answer: the step continues to wait, whatever the participant does.
type Reminder[D any] struct {
	// After is the time from the beginning of the step. It is shorter than the step's Timeout.
	After time.Duration

	// Action makes the command.
	Action func(D) cqrs.Keyed
}

// Fallback is the alternative to a step. If the step may have had an effect, the step is compensated before the fallback runs. The fallback is compensated
// like any step. The fields up to Timeout are those of a Step.
type Fallback[D any] struct {
	Name         string
	Action       func(D) cqrs.Keyed
	Completed    Expected[D]
	Refused      []Refusal
	Compensation func(D) cqrs.Keyed
	Compensated  Expected[D]
	Timeout      time.Duration

	// WhenOpen runs the fallback while the circuit breaker of the destination of the step's command is open. The step's command is not sent then.
	WhenOpen bool

	// WhenTimedOut runs the fallback when the step was not answered in time, or its command became a dead letter at the participant.
	WhenTimedOut bool

	// WhenRefused runs the fallback when the step is refused for one of these reasons.
	WhenRefused []string
}

// FinalStep is the last command of a compensated saga. Action gets the data and the reason of the compensation.
type FinalStep[D any] struct {
	Name      string
	Action    func(d D, reason string) cqrs.Keyed
	Completed Expected[D]
	Timeout   time.Duration
}

// Expected is an event of one type that the saga waits for, with the function that stores some of the event in the data.
type Expected[D any] struct {
	event    reflect.Type
	apply    func(*D, any)    // nil: the data does not change
	subject  func(any) string // of a starting event; nil: the key of its message
	byParent bool             // a parent starts the saga with the event, which is not a message
}

// On expects an E. Remember stores some of the event in the data.
func On[E, D any](remember func(*D, E)) Expected[D] {
	return Expected[D]{event: reflect.TypeFor[E](), apply: func(d *D, e any) { remember(d, e.(E)) }}
}

// OnSubject is On for an event that starts a saga, with a function that returns the subject. Without OnSubject, the key of the event's message is the
// subject. An event with an empty subject starts no instance.
func OnSubject[E, D any](subject func(E) string, remember func(*D, E)) Expected[D] {
	started := On(remember)
	started.subject = func(e any) string { return subject(e.(E)) }
	return started
}

// ByParent is On for a saga that only other sagas start, as a Child. E is the value that the parent makes.
func ByParent[E, D any](remember func(*D, E)) Expected[D] {
	started := On(remember)
	started.byParent = true
	return started
}

// Event expects an E and stores nothing of it.
func Event[E, D any]() Expected[D] { return Expected[D]{event: reflect.TypeFor[E]()} }

// Refusal is an event of one type that refuses a step, with the function that returns its reason.
type Refusal struct {
	event  reflect.Type
	reason func(any) string
}

// RefusedBy expects an E that refuses the step. Reason returns the reason of the refusal.
func RefusedBy[E any](reason func(E) string) Refusal {
	return Refusal{reflect.TypeFor[E](), func(e any) string { return reason(e.(E)) }}
}

// step converts the fallback to a step.
func (f Fallback[D]) step() Step[D] {
	return Step[D]{Name: f.Name, Action: f.Action, Completed: f.Completed, Refused: f.Refused, Compensation: f.Compensation, Compensated: f.Compensated, Timeout: f.Timeout}
}
