package saga

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Input is something that happens to a saga.
//
//sumtype:decl
type Input interface{ input() }

// Start is the event that starts an instance.
type Start struct {
	Event     any
	Subject   string
	MessageID string
	Parent    *Parent // nil: the instance is no child
}

// Answer is an event that a participant recorded while it handled one of the saga's commands.
type Answer struct {
	Event     any
	Step      string
	Branch    cqrs.Branch
	CommandID string
}

// Cancel requests that the saga is compensated. React returns an error that wraps ErrTooLate if it cannot be cancelled any more.
type Cancel struct{ Reason string }

func (Start) input()   {}
func (Answer) input()  {}
func (Timeout) input() {}
func (Cancel) input()  {}

// Command is a command that the caller of React sends to a participant.
type Command struct {
	ID        string
	Step      string
	Branch    cqrs.Branch
	Body      cqrs.Keyed
	ExpiresAt time.Time

	// Repeat is the number of the attempt at a step with Until, from the second attempt on; otherwise 0.
	Repeat int

	// Notice marks a command that is sent without step, branch and expiry, so that the participant's events are no answers to it.
	Notice bool
}

// MessageStep returns the step in the metadata of the command's message: "step#3" for the third attempt of a step with Until. Each attempt has its own
// name, because the participant would otherwise take it for the same command.
func (c Command) MessageStep() string {
	if c.Repeat == 0 {
		return c.Step
	}
	return fmt.Sprintf("%s#%d", c.Step, c.Repeat)
}

// Timer sends Timeout to the saga at DueAt.
type Timer struct {
	ID      string
	DueAt   time.Time
	Timeout Timeout
}

// Reaction is the result of React. The caller records and sends all of it in one transaction.
type Reaction struct {
	Events          []HistoryEvent
	Commands        []Command
	Timers          []Timer
	CancelledTimers []string // ids of timers that are not needed any more
	Waits           []Wait   // waits for events that begin
	EndedWaits      []Wait   // waits that ended without their event
	State           State    // after Events
}
