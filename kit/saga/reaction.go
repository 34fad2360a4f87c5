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

// Start is the event that begins an instance.
type Start struct {
	Event     any
	Subject   string
	MessageID string
	Parent    *Parent // nil: it is no child
}

// Answer is an event that a participant recorded while it handled one of the saga's commands.
type Answer struct {
	Event     any
	Step      string
	Branch    cqrs.Branch
	CommandID string
}

// Cancel asks for everything to be undone.
type Cancel struct{ Reason string }

func (Start) input()   {}
func (Answer) input()  {}
func (Timeout) input() {}
func (Cancel) input()  {}

// Command is to be sent to a participant.
type Command struct {
	ID        string
	Step      string
	Branch    cqrs.Branch
	Body      cqrs.Keyed
	ExpiresAt time.Time

	// Repeat is the number of the attempt at a step that is repeated until a condition holds, if it is not the first one.
	Repeat int

	// Notice marks a command to which no answer is expected.
	Notice bool
}

// MessageStep is the step by which the message goes. Each repetition is another step for the barrier, because it is not the same command again.
func (c Command) MessageStep() string {
	if c.Repeat == 0 {
		return c.Step
	}
	return fmt.Sprintf("%s#%d", c.Step, c.Repeat)
}

// Timer is to come back as a Timeout.
type Timer struct {
	ID      string
	DueAt   time.Time
	Timeout Timeout
}

// Reaction is what comes of an input. It is recorded and sent in one transaction.
type Reaction struct {
	Events          []HistoryEvent
	Commands        []Command
	Timers          []Timer
	CancelledTimers []string // ids of timers that are of no use any more
	Waits           []Wait   // for events, that begin
	EndedWaits      []Wait   // that have ended without their event
	State           State    // after the facts
}
