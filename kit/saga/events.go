package saga

import (
	"encoding/json"
	"reflect"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// Category is the name of sagas in streams and topics.
const Category = "sagas"

// HistoryEvent is an event in a saga's own stream; the stream is its history and its timeline.
//
//sumtype:decl
type HistoryEvent interface{ fact() }

// Started begins an instance.
type Started struct {
	Definition string          `json:"definition"`
	Version    int             `json:"version"`
	Subject    string          `json:"subject"`
	Steps      []string        `json:"steps"`
	Data       json.RawMessage `json:"data"`
	Next       *CommandSent    `json:"next,omitempty"`

	// Stages are the numbers of the steps' stages, from 1, if some steps are parallel. Nil: each step is a stage of its own.
	Stages []int32 `json:"stages,omitempty"`

	// Parent is the saga that this one is a step of.
	Parent *Parent `json:"parent,omitempty"`
}

// CommandsSent says that the commands of several steps were sent at once: the actions or the compensations of a stage.
type CommandsSent struct {
	Sent []CommandSent `json:"sent"`
}

// CommandSent says that a step's command was sent, or was sent again. If that is what comes of Started, StepCompleted or StepCompensated, it
// stands in that fact as its Next; else it is a fact of its own.
type CommandSent struct {
	Step      string      `json:"step"`
	Branch    cqrs.Branch `json:"branch"`
	Attempt   int         `json:"attempt"`
	CommandID string      `json:"command_id"`
	Deadline  time.Time   `json:"deadline"`

	// InsteadOf names the step that a fallback stands in for.
	InsteadOf string `json:"instead_of,omitempty"`

	// Timed says that a timer was set for it. Else one that fires before its deadline will do, and is set anew then: sagas that keep their
	// time need but one.
	Timed bool `json:"timed,omitempty"`
}

// SkippedByCondition says that steps are not needed, by their conditions: those of one stage.
type SkippedByCondition struct {
	Steps []string     `json:"steps"`
	Next  *CommandSent `json:"next,omitempty"`
}

// ItemsCounted says how many items a step that is taken for each has.
type ItemsCounted struct {
	Step  string       `json:"step"`
	Items int          `json:"items"`
	Next  *CommandSent `json:"next,omitempty"`
}

// WaitStarted says that a step waits, and sends no command.
type WaitStarted struct {
	Step     string    `json:"step"`
	WaitID   string    `json:"wait_id"`
	Deadline time.Time `json:"deadline"`
	Signal   string    `json:"signal,omitempty"`  // that it waits for
	Event    string    `json:"event,omitempty"`   // that it waits for, a Go type; neither: it waits only for the time
	Key      string    `json:"key,omitempty"`     // of the event
	Timed    bool      `json:"timed,omitempty"`   // a timer was set for it
	Attempt  int       `json:"attempt,omitempty"` // if it is not the first
}

// EventReceived says that the event has come which a step waits for. It completes the step.
type EventReceived struct {
	Step      string          `json:"step"`
	Event     string          `json:"event"` // its Go type
	MessageID string          `json:"message_id"`
	Data      json.RawMessage `json:"data,omitempty"` // if there is anything new to remember
	Next      *CommandSent    `json:"next,omitempty"`
}

// ReminderSent says that a command was sent because a step still waits, and until when it goes on waiting.
type ReminderSent struct {
	Step      string    `json:"step"`
	CommandID string    `json:"command_id"`
	WaitID    string    `json:"wait_id"`
	Deadline  time.Time `json:"deadline"`
	Timed     bool      `json:"timed,omitempty"` // a timer was set for it
}

// WaitsCancelled says that steps do not wait any longer, because the saga is compensated. There is nothing to compensate of them.
type WaitsCancelled struct {
	Steps []string `json:"steps"`
}

// RepeatScheduled says that a step was answered, that its condition does not hold yet, and when its command is sent again.
type RepeatScheduled struct {
	Step      string          `json:"step"`
	CommandID string          `json:"command_id"`
	Data      json.RawMessage `json:"data,omitempty"` // if there is anything new to remember
	WaitID    string          `json:"wait_id"`
	At        time.Time       `json:"at"`
	Timed     bool            `json:"timed,omitempty"` // a timer was set for it
}

// SignalReceived says what a person has told the saga. It completes the step.
type SignalReceived struct {
	Step    string          `json:"step"`
	Signal  string          `json:"signal"`
	By      string          `json:"by"`
	Payload json.RawMessage `json:"payload"`
	Data    json.RawMessage `json:"data,omitempty"` // if there is anything new to remember
	Next    *CommandSent    `json:"next,omitempty"`
}

// StepCompleted ends a step well.
type StepCompleted struct {
	Step      string          `json:"step"`
	CommandID string          `json:"command_id"`     // or the id of the wait
	Data      json.RawMessage `json:"data,omitempty"` // if there is anything new to remember
	Next      *CommandSent    `json:"next,omitempty"`
}

// StepRefused says why a step comes to nothing.
type StepRefused struct {
	Step      string `json:"step"`
	CommandID string `json:"command_id,omitempty"` // empty if it was not even asked
	Reason    string `json:"reason"`
	InDoubt   bool   `json:"in_doubt,omitempty"` // the participant gave up in the middle of it: it is undone too
	Fallback  string `json:"fallback,omitempty"` // what is done instead; empty: all is undone
}

// StepTimedOut says that nobody knows whether it was done.
type StepTimedOut struct {
	Step     string `json:"step"`
	Fallback string `json:"fallback,omitempty"` // what is done instead, once it is undone; empty: all is undone
	GoesOn   bool   `json:"goes_on,omitempty"`  // the saga goes on without it
}

// StepCompensated ends a compensation.
type StepCompensated struct {
	Step      string       `json:"step"`
	CommandID string       `json:"command_id"`
	Next      *CommandSent `json:"next,omitempty"`
}

// CancelRequested says that somebody wants the saga undone.
type CancelRequested struct {
	Reason string `json:"reason"`
}

// AnswerIgnored records an answer that came too late to change anything.
type AnswerIgnored struct {
	Step   string      `json:"step"`
	Branch cqrs.Branch `json:"branch"`
	Event  string      `json:"event"`
}

// NeedsIntervention asks for a person. What was being asked goes on being asked.
type NeedsIntervention struct {
	Step   string `json:"step"`
	Reason string `json:"reason"`

	// ChildRefused says that the child saga of the step has compensated itself. Another one is started when the step is retried.
	ChildRefused bool `json:"child_refused,omitempty"`
}

// StepRetried says that a person had a stuck step asked again.
type StepRetried struct {
	Step string `json:"step"`
	By   string `json:"by"`
}

// StepSkipped says that a person vouches for a stuck step: it counts as done, or as undone on the way back.
type StepSkipped struct {
	Step   string `json:"step"`
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Resolved says that a person has done by hand what was left of a stuck saga; only its subject is still told.
type Resolved struct {
	Step   string `json:"step"`
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Completed ends the saga well.
type Completed struct{}

// Compensated ends the saga with everything undone.
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

// What a program that knows no better has to be told by another schema version, though the facts of before are read as they are.
func dataWasAlwaysThere(map[string]any) error { return nil } // data that did not change is left out since
func nextWasApart(map[string]any) error       { return nil } // the step that is asked next was a fact of its own before

// HistoryTypes names the facts as they are stored.
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

// Refused is an answer that every participant can give: no.
type Refused = cqrs.RefusedAnswer

// Failed is the answer in the name of a participant that gave up.
type Failed = cqrs.FailedAnswer

// NothingToCompensate is the answer of a participant that is to undo what it never did.
type NothingToCompensate = cqrs.NothingToCompensateAnswer

// Processed is the answer of a participant that had nothing to change: the step is done, or undone.
type Processed = cqrs.ProcessedAnswer

// Answers names the answers that every participant can give. They stand on the participant's event topic.
var Answers = aggregate.TypesOf(
	aggregate.NewType[Refused]("saga.refused"),
	aggregate.NewType[Failed]("saga.failed"),
	aggregate.NewType[NothingToCompensate]("saga.nothing-to-undo"),
	aggregate.NewType[Processed]("saga.processed"),
)

// Timeout is the command that a timer sends to its saga. It names what was being waited for when the timer was set; if that was answered
// meanwhile, the timer is set anew for what is being waited for then.
type Timeout struct {
	SagaID  string      `json:"saga_id"`
	Step    string      `json:"step"`
	Branch  cqrs.Branch `json:"branch"`
	Attempt int         `json:"attempt"`
}

// Key keeps what happens to a saga in order.
func (t Timeout) Key() string { return t.SagaID }

// AnswerTypes are the Go types of Answers.
func AnswerTypes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[Refused](), reflect.TypeFor[Failed](), reflect.TypeFor[NothingToCompensate](), reflect.TypeFor[Processed]()}
}
