package saga

import (
	"encoding/json"
	"reflect"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// Category is the category of sagas in event streams and topics.
const Category = "sagas"

// HistoryEvent is an event in the stream of an instance. The stream is the instance's history, and its state is the fold of these events.
//
//sumtype:decl
type HistoryEvent interface{ fact() }

// Started starts an instance. Steps are the names of the steps in order, without fallbacks.
type Started struct {
	Definition string          `json:"definition"`
	Version    int             `json:"version"`
	Subject    string          `json:"subject"`
	Steps      []string        `json:"steps"`
	Data       json.RawMessage `json:"data"`
	Next       *CommandSent    `json:"next,omitempty"`

	// Stages are the numbers of the stages of Steps, from 1, if stages of the saga have parallel steps. Nil: each step is a stage of its own.
	Stages []int32 `json:"stages,omitempty"`

	// Parent is the saga that started this one as a child; nil: the saga is no child.
	Parent *Parent `json:"parent,omitempty"`
}

// CommandsSent records that the commands of several steps of a stage were sent together: actions or compensations.
type CommandsSent struct {
	Sent []CommandSent `json:"sent"`
}

// CommandSent records that the command of a step was sent, or was sent again. A command that follows directly from Started, StepCompleted or another
// event with a field Next is stored in that field; otherwise CommandSent is an event of its own.
type CommandSent struct {
	Step      string      `json:"step"`
	Branch    cqrs.Branch `json:"branch"`
	Attempt   int         `json:"attempt"`
	CommandID string      `json:"command_id"`
	Deadline  time.Time   `json:"deadline"`

	// InsteadOf names the step that a fallback replaces.
	InsteadOf string `json:"instead_of,omitempty"`

	// Timed tells that a timer was set for this command. Otherwise an earlier timer is pending that fires before the deadline, and is set
	// anew then: a saga whose answers come in time needs only one timer.
	Timed bool `json:"timed,omitempty"`
}

// SkippedByCondition records that steps of a stage are skipped, because SkipIf returned true.
type SkippedByCondition struct {
	Steps []string     `json:"steps"`
	Next  *CommandSent `json:"next,omitempty"`
}

// ItemsCounted records the number of items of a step with ForEach.
type ItemsCounted struct {
	Step  string       `json:"step"`
	Items int          `json:"items"`
	Next  *CommandSent `json:"next,omitempty"`
}

// WaitStarted records that a step with Delay, Signal or Await began to wait.
type WaitStarted struct {
	Step     string    `json:"step"`
	WaitID   string    `json:"wait_id"`
	Deadline time.Time `json:"deadline"`
	Signal   string    `json:"signal,omitempty"`  // name of the signal that the step waits for
	Event    string    `json:"event,omitempty"`   // Go type of the event that the step waits for; neither: a delay, or an operator
	Key      string    `json:"key,omitempty"`     // of the event
	Timed    bool      `json:"timed,omitempty"`   // a timer was set for the wait
	Attempt  int       `json:"attempt,omitempty"` // only if it is not the first
}

// EventReceived records the event that a step waited for. It completes the step.
type EventReceived struct {
	Step      string          `json:"step"`
	Event     string          `json:"event"` // its Go type
	MessageID string          `json:"message_id"`
	Data      json.RawMessage `json:"data,omitempty"` // the saga's data, if the event changed it
	Next      *CommandSent    `json:"next,omitempty"`
}

// ReminderSent records that the reminder of a waiting step was sent, and the deadline until which the step continues to wait.
type ReminderSent struct {
	Step      string    `json:"step"`
	CommandID string    `json:"command_id"`
	WaitID    string    `json:"wait_id"`
	Deadline  time.Time `json:"deadline"`
	Timed     bool      `json:"timed,omitempty"` // a timer was set for the deadline
}

// WaitsCancelled records that steps stopped waiting, because the saga is compensated. The steps themselves need no compensation.
type WaitsCancelled struct {
	Steps []string `json:"steps"`
}

// RepeatScheduled records an answer to a step with Until for which the condition does not hold, and the time at which the command is sent again.
type RepeatScheduled struct {
	Step      string          `json:"step"`
	CommandID string          `json:"command_id"`
	Data      json.RawMessage `json:"data,omitempty"` // the saga's data, if the answer changed it
	WaitID    string          `json:"wait_id"`
	At        time.Time       `json:"at"`
	Timed     bool            `json:"timed,omitempty"` // a timer was set for At
}

// SignalReceived records a signal, its payload and its sender. It completes the step.
type SignalReceived struct {
	Step    string          `json:"step"`
	Signal  string          `json:"signal"`
	By      string          `json:"by"`
	Payload json.RawMessage `json:"payload"`
	Data    json.RawMessage `json:"data,omitempty"` // the saga's data, if the signal changed it
	Next    *CommandSent    `json:"next,omitempty"`
}

// StepCompleted records that a step was completed.
type StepCompleted struct {
	Step      string          `json:"step"`
	CommandID string          `json:"command_id"`     // of the answered command, or the id of a wait
	Data      json.RawMessage `json:"data,omitempty"` // the saga's data, if the answer changed it
	Next      *CommandSent    `json:"next,omitempty"`
}

// StepRefused records that a step was refused, and the reason.
type StepRefused struct {
	Step      string `json:"step"`
	CommandID string `json:"command_id,omitempty"` // empty if no command was answered, for example because the circuit breaker was open
	Reason    string `json:"reason"`
	InDoubt   bool   `json:"in_doubt,omitempty"` // the command became a dead letter and the step may have had an effect, so it is compensated
	Fallback  string `json:"fallback,omitempty"` // the step that runs instead; empty: the saga is compensated
}

// StepTimedOut records that a step was not answered in time. Its effect is unknown.
type StepTimedOut struct {
	Step     string `json:"step"`
	Fallback string `json:"fallback,omitempty"` // the step that runs instead, after the compensation of this one; empty: the saga is compensated
	GoesOn   bool   `json:"goes_on,omitempty"`  // the step was optional, and the saga continues
}

// StepCompensated records that a compensation was completed.
type StepCompensated struct {
	Step      string       `json:"step"`
	CommandID string       `json:"command_id"`
	Next      *CommandSent `json:"next,omitempty"`
}

// CancelRequested records that a cancellation was accepted: the saga is compensated. It is also recorded when a parent compensates its child.
type CancelRequested struct {
	Reason string `json:"reason"`
}

// AnswerIgnored records an answer or an event that changed nothing, in most cases because it came too late.
type AnswerIgnored struct {
	Step   string      `json:"step"`
	Branch cqrs.Branch `json:"branch"`
	Event  string      `json:"event"`
}

// NeedsIntervention records that a step is stuck and an operator must decide. Commands in flight continue to be retried.
type NeedsIntervention struct {
	Step   string `json:"step"`
	Reason string `json:"reason"`

	// ChildRefused tells that the child saga of the step has compensated itself. A new child is started when the step is retried.
	ChildRefused bool `json:"child_refused,omitempty"`
}

// StepRetried records that an operator had the command of a stuck step sent again.
type StepRetried struct {
	Step string `json:"step"`
	By   string `json:"by"`
}

// StepSkipped records that an operator marked a stuck step as completed, or as compensated if its compensation was stuck.
type StepSkipped struct {
	Step   string `json:"step"`
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Resolved records that an operator completed or compensated a step of a stuck saga by hand. There is one event for each step that was in flight. The last
// command of the saga is still sent.
type Resolved struct {
	Step   string `json:"step"`
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Completed ends the saga: all steps are completed.
type Completed struct{}

// Compensated ends the saga: all steps are compensated.
type Compensated struct {
	Reason string `json:"reason"`
}

func (f Started) with(next *CommandSent) HistoryEvent            { f.Next = next; return f }
func (f StepCompleted) with(next *CommandSent) HistoryEvent      { f.Next = next; return f }
func (f SkippedByCondition) with(next *CommandSent) HistoryEvent { f.Next = next; return f }
func (f ItemsCounted) with(next *CommandSent) HistoryEvent       { f.Next = next; return f }
func (f EventReceived) with(next *CommandSent) HistoryEvent      { f.Next = next; return f }
func (f SignalReceived) with(next *CommandSent) HistoryEvent     { f.Next = next; return f }
func (f StepCompensated) with(next *CommandSent) HistoryEvent    { f.Next = next; return f }

func (Started) fact()            {}
func (CommandSent) fact()        {}
func (CommandsSent) fact()       {}
func (SkippedByCondition) fact() {}
func (ItemsCounted) fact()       {}
func (RepeatScheduled) fact()    {}
func (EventReceived) fact()      {}
func (ReminderSent) fact()       {}
func (SignalReceived) fact()     {}
func (WaitStarted) fact()        {}
func (WaitsCancelled) fact()     {}
func (StepCompleted) fact()      {}
func (StepRefused) fact()        {}
func (StepTimedOut) fact()       {}
func (StepCompensated) fact()    {}
func (CancelRequested) fact()    {}
func (AnswerIgnored) fact()      {}
func (NeedsIntervention) fact()  {}
func (StepRetried) fact()        {}
func (StepSkipped) fact()        {}
func (Resolved) fact()           {}
func (Completed) fact()          {}
func (Compensated) fact()        {}

// These upcasters change nothing. They raise the schema version of an event, so that an older program refuses to read it; older events are read as they are.
func dataWasAlwaysThere(map[string]any) error { return nil } // since then, data that did not change is left out
func nextWasApart(map[string]any) error       { return nil } // before, the command that follows was always an event of its own

// HistoryTypes maps the events of a saga's history to the names under which they are stored.
var HistoryTypes = aggregate.TypesOf(
	aggregate.NewType[Started]("saga.started", nextWasApart),
	aggregate.NewType[CommandSent]("saga.step-asked"),
	aggregate.NewType[CommandsSent]("saga.commands-sent"),
	aggregate.NewType[SkippedByCondition]("saga.skipped-by-condition"),
	aggregate.NewType[ItemsCounted]("saga.items-counted"),
	aggregate.NewType[WaitStarted]("saga.wait-started"),
	aggregate.NewType[WaitsCancelled]("saga.waits-cancelled"),
	aggregate.NewType[RepeatScheduled]("saga.repeat-scheduled"),
	aggregate.NewType[EventReceived]("saga.event-received"),
	aggregate.NewType[ReminderSent]("saga.reminder-sent"),
	aggregate.NewType[SignalReceived]("saga.signal-received"),
	aggregate.NewType[StepCompleted]("saga.step-completed", dataWasAlwaysThere, nextWasApart),
	aggregate.NewType[StepRefused]("saga.step-refused"),
	aggregate.NewType[StepTimedOut]("saga.step-timed-out"),
	aggregate.NewType[StepCompensated]("saga.step-compensated", nextWasApart),
	aggregate.NewType[CancelRequested]("saga.cancel-requested"),
	aggregate.NewType[AnswerIgnored]("saga.answer-ignored"),
	aggregate.NewType[NeedsIntervention]("saga.got-stuck"),
	aggregate.NewType[StepRetried]("saga.step-retried"),
	aggregate.NewType[StepSkipped]("saga.step-skipped"),
	aggregate.NewType[Resolved]("saga.resolved"),
	aggregate.NewType[Completed]("saga.completed"),
	aggregate.NewType[Compensated]("saga.compensated"),
)

// Refused is the answer of a participant that refuses a command without recording an event.
type Refused = cqrs.RefusedAnswer

// Failed is the answer that is sent when a command has become a dead letter at its participant. The step may have had an effect.
type Failed = cqrs.FailedAnswer

// NothingToCompensate is the answer to a compensation whose action never ran at the participant, and cannot run any more.
type NothingToCompensate = cqrs.NothingToCompensateAnswer

// Processed is the answer of a participant that had nothing to change: the step is completed, or compensated.
type Processed = cqrs.ProcessedAnswer

// Answers maps the answers that every participant can give to the names under which they are stored. They are published on the participant's event topic.
var Answers = aggregate.TypesOf(
	aggregate.NewType[Refused]("saga.refused"),
	aggregate.NewType[Failed]("saga.failed"),
	aggregate.NewType[NothingToCompensate]("saga.nothing-to-undo"),
	aggregate.NewType[Processed]("saga.processed"),
)

// Timeout is the command that a timer sends to its saga. It names the step, branch and attempt for which the timer was set. If that attempt was answered
// meanwhile, the timer is set anew for the step in flight whose answer is due first.
type Timeout struct {
	SagaID  string      `json:"saga_id"`
	Step    string      `json:"step"`
	Branch  cqrs.Branch `json:"branch"`
	Attempt int         `json:"attempt"`
}

// Key returns the id of the saga, so that its commands are handled in order.
func (t Timeout) Key() string { return t.SagaID }

// AnswerTypes returns the Go types of Answers.
func AnswerTypes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[Refused](), reflect.TypeFor[Failed](), reflect.TypeFor[NothingToCompensate](), reflect.TypeFor[Processed]()}
}
