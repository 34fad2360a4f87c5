package saga

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Status is the status of an instance.
type Status string

// An instance runs until it is completed or compensated. A stuck instance needs an operator, and continues when its stuck steps are answered or decided.
const (
	StatusRunning      Status = "running"
	StatusCompensating Status = "compensating"
	StatusCompleted    Status = "completed"
	StatusCompensated  Status = "compensated"
	StatusStuck        Status = "stuck"
)

// Ended tells whether the instance has ended. Nothing happens to it any more, except that its parent may compensate a completed child.
func (s Status) Ended() bool { return s == StatusCompleted || s == StatusCompensated }

// StepStatus is the status of a step.
type StepStatus string

// The statuses of a step.
const (
	StepStatusWaiting      StepStatus = "waiting"
	StepStatusInProgress   StepStatus = "in_progress"
	StepStatusCompleted    StepStatus = "completed"
	StepStatusSkipped      StepStatus = "skipped"   // by its condition
	StepStatusCancelled    StepStatus = "cancelled" // a wait, because the saga is compensated
	StepStatusRefused      StepStatus = "refused"
	StepStatusTimedOut     StepStatus = "timed_out"
	StepStatusCompensating StepStatus = "compensating"
	StepStatusCompensated  StepStatus = "compensated"
)

// StepState is the state of a step of an instance.
type StepState struct {
	Name      string     `json:"name"`
	Status    StepStatus `json:"status"`
	Attempts  int        `json:"attempts"` // number of the present or last attempt
	StartedAt *time.Time `json:"started_at,omitempty"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Deadline  *time.Time `json:"deadline,omitempty"`  // of the answer or of the wait in flight
	Reason    string     `json:"reason,omitempty"`    // of a refusal, or why the step is stuck
	InDoubt   bool       `json:"in_doubt,omitempty"`  // it was refused by a participant that may have executed it
	Stuck     bool       `json:"stuck,omitempty"`     // it needs an operator
	Wait      bool       `json:"wait,omitempty"`      // it sends no command
	Scheduled bool       `json:"scheduled,omitempty"` // it was answered, and its command is sent again at Deadline
	Stage     int32      `json:"stage,omitempty"`     // number of its stage, from 1, if the saga has parallel steps
	Fallback  string     `json:"fallback,omitempty"`  // the step that runs instead
	InsteadOf string     `json:"instead_of,omitempty"`

	// Generation is the number of child sagas of the step before the present one.
	Generation int `json:"generation,omitempty"`

	childRefused bool // the child has compensated itself, and an operator decides

	// Items are the items of a step with ForEach, once they are counted. They are named "step#1" and so on. Status is then the overall status
	// of the items, and Counts is their number by status.
	Items  []StepState        `json:"items,omitempty"`
	Counts map[StepStatus]int `json:"counts,omitempty"`

	// Answered are the ids of the commands that were answered. Further events of these commands are ignored.
	Answered []string `json:"answered,omitempty"`
}

// State is the state of an instance: the fold of its events. The zero State has not started.
type State struct {
	ID         string          `json:"saga_id"`
	Definition string          `json:"definition"`
	DefVersion int             `json:"definition_version"`
	Subject    string          `json:"subject"`
	Status     Status          `json:"status"`
	Steps      []StepState     `json:"steps"`
	StartedAt  time.Time       `json:"started_at"`
	EndedAt    *time.Time      `json:"ended_at,omitempty"`
	Reason     string          `json:"reason,omitempty"` // of the compensation
	Data       json.RawMessage `json:"data,omitempty"`
	Version    int             `json:"version"` // number of events

	// Parent is the saga that started this one; nil: the saga is no child.
	Parent *Parent `json:"parent,omitempty"`

	// CancelRequested tells that a cancellation was accepted.
	CancelRequested bool `json:"cancel_asked,omitempty"`

	// Compensating tells that the instance is being compensated. It stays true while the instance is stuck and after it has ended.
	Compensating bool `json:"backwards,omitempty"`

	// Signals are the names of the signals that steps wait for, or waited for, by the names of the steps. They are not part of StepState because
	// few sagas have any.
	Signals map[string]string `json:"signals,omitempty"`

	// Awaits are the events that steps wait for, or waited for, by the names of the steps.
	Awaits map[string]Correlation `json:"awaits,omitempty"`

	// alive is the time until which an attempt before the last one may still be handled, because an operator had the command sent again before
	// its deadline. It belongs to the step that sent a command last, which is enough for the pivot: the pivot is alone in its stage.
	alive *time.Time

	// timed is the command with which a timer was last set, and fires is when that timer fires.
	timed string
	fires time.Time
}

// Step returns the state of the step or item with this name, or nil. Fallbacks and the step of OnCompensated have a state once their command was sent.
func (s *State) Step(name string) *StepState {
	step, _ := s.locate(name)
	return step
}

// Fold applies an event that was recorded at a time.
func (s *State) Fold(f HistoryEvent, at time.Time) {
	s.Version++
	switch f := f.(type) {
	case Started:
		s.Definition, s.DefVersion, s.Subject, s.Data = f.Definition, f.Version, f.Subject, f.Data
		s.Status, s.StartedAt, s.Parent = StatusRunning, at, f.Parent
		s.Steps = make([]StepState, 0, len(f.Steps)+1) // room for one more: a fallback, or the step of OnCompensated
		for i, name := range f.Steps {
			st := StepState{Name: name, Status: StepStatusWaiting}
			if i < len(f.Stages) {
				st.Stage = f.Stages[i]
			}
			s.Steps = append(s.Steps, st)
		}
		s.asked(f.Next, at)
	case CommandSent:
		s.asked(&f, at)
	case CommandsSent:
		for i := range f.Sent {
			s.asked(&f.Sent[i], at)
		}
	case SkippedByCondition:
		for _, name := range f.Steps {
			s.Step(name).Status = StepStatusSkipped
		}
		s.asked(f.Next, at)
	case ItemsCounted:
		step := s.Step(f.Step)
		step.makeItems(f.Items, "")
		s.unstick(step)
		s.asked(f.Next, at)
	case WaitStarted:
		s.asked(&CommandSent{Step: f.Step, Branch: cqrs.BranchAction, Attempt: max(f.Attempt, 1), CommandID: f.WaitID, Deadline: f.Deadline, Timed: f.Timed}, at)
		s.Step(f.Step).Wait = true
		if f.Event != "" {
			s.Awaits = maps.Clone(s.Awaits)
			if s.Awaits == nil {
				s.Awaits = map[string]Correlation{}
			}
			s.Awaits[f.Step] = Correlation{f.Event, f.Key}
		}
		if f.Signal != "" {
			s.Signals = maps.Clone(s.Signals) // the state before must not change
			if s.Signals == nil {
				s.Signals = map[string]string{}
			}
			s.Signals[f.Step] = f.Signal
		}
	case SignalReceived:
		if len(f.Data) > 0 {
			s.Data = f.Data
		}
		s.end(f.Step, StepStatusCompleted, "", at)
		s.asked(f.Next, at)
	case EventReceived:
		if len(f.Data) > 0 {
			s.Data = f.Data
		}
		s.end(f.Step, StepStatusCompleted, "", at)
		s.asked(f.Next, at)
	case ReminderSent:
		s.asked(&CommandSent{Step: f.Step, Branch: cqrs.BranchAction, Attempt: 2, CommandID: f.WaitID, Deadline: f.Deadline, Timed: f.Timed}, at)
	case WaitsCancelled:
		for _, name := range f.Steps {
			s.end(name, StepStatusCancelled, "", at)
		}
	case RepeatScheduled:
		if len(f.Data) > 0 {
			s.Data = f.Data
		}
		step := s.Step(f.Step)
		step.Scheduled, step.Deadline = true, &f.At
		step.Answered = append(step.Answered, f.CommandID)
		if f.Timed {
			s.timed, s.fires = f.WaitID, f.At
		}
	case StepCompleted:
		if len(f.Data) > 0 {
			s.Data = f.Data
		}
		s.end(f.Step, StepStatusCompleted, f.CommandID, at)
		s.asked(f.Next, at)
	case StepRefused:
		s.end(f.Step, StepStatusRefused, f.CommandID, at)
		step := s.Step(f.Step)
		step.Reason, step.InDoubt = f.Reason, f.InDoubt
		s.detour(step, f.Fallback, f.Reason)
	case StepTimedOut:
		s.end(f.Step, StepStatusTimedOut, "", at)
		if f.GoesOn {
			return
		}
		s.detour(s.Step(f.Step), f.Fallback, f.Step+": no answer in time")
	case StepCompensated:
		s.end(f.Step, StepStatusCompensated, f.CommandID, at)
		s.asked(f.Next, at)
	case CancelRequested:
		s.CancelRequested = true
		if s.EndedAt != nil { // a completed child is compensated; its timer was stopped when it was completed
			s.EndedAt, s.fires = nil, time.Time{}
		}
		s.turnBack(f.Reason)
	case AnswerIgnored:
	case StepRetried:
		if step := s.Step(f.Step); step.childRefused {
			step.childRefused = false
			step.Generation++
		}
	case StepSkipped:
		s.vouched(f.Step, at)
	case Resolved:
		s.vouched(f.Step, at)
	case NeedsIntervention:
		s.Status = StatusStuck
		step := s.Step(f.Step)
		step.Reason, step.Stuck, step.childRefused = f.Reason, true, f.ChildRefused
	case Completed:
		s.Status, s.EndedAt = StatusCompleted, &at
		for i := range s.Steps {
			if step := &s.Steps[i]; step.Items != nil && step.InFlight() { // an operator has resolved the saga, so the remaining items do not run
				step.Status, step.EndedAt = StepStatusCompleted, &at
			}
		}
	case Compensated:
		s.Status, s.EndedAt = StatusCompensated, &at
	}
}

// asked applies that the command of a step was sent; nil: no command was.
func (s *State) asked(f *CommandSent, at time.Time) {
	if f == nil {
		return
	}
	step, of := s.locate(f.Step)
	if step == nil {
		step, of = s.insert(f.Step, f.InsteadOf)
	}
	before := step.Status
	switch {
	case f.Attempt == 1:
		s.alive = nil
	case step.Deadline != nil && (s.alive == nil || s.alive.Before(*step.Deadline)):
		s.alive = step.Deadline
	}
	step.Status, step.Attempts, step.Deadline, step.EndedAt, step.Scheduled = StepStatusInProgress, f.Attempt, &f.Deadline, nil, false
	if f.Branch == cqrs.BranchCompensation {
		step.Status = StepStatusCompensating
	}
	if step.StartedAt == nil {
		step.StartedAt = &at
	}
	of.count(before, step.Status, at)
	if f.Timed {
		s.timed, s.fires = f.CommandID, f.Deadline
	}
}

// InFlight tells whether the step waits: for the answer to its action or its compensation, or for the end of a wait.
func (st *StepState) InFlight() bool {
	return st.Status == StepStatusInProgress || st.Status == StepStatusCompensating
}

// branch returns the branch of the step in flight.
func (st *StepState) branch() cqrs.Branch {
	if st.Status == StepStatusCompensating {
		return cqrs.BranchCompensation
	}
	return cqrs.BranchAction
}

// repeat is the branch of the timer that sends the command of a step with Until again after an answer. It tells this timer from those for an answer.
const repeat cqrs.Branch = "repeat"

// timerBranch returns the branch in a timer for the step in flight.
func (st *StepState) timerBranch() cqrs.Branch {
	if st.Scheduled {
		return repeat
	}
	return st.branch()
}

// earliest returns the step in flight whose deadline is first; nil if no step is in flight.
func (s *State) earliest() (first *StepState) {
	for st := range s.Branches() {
		if st.InFlight() && (first == nil || st.Deadline.Before(*first.Deadline)) {
			first = st
		}
	}
	return first
}

// StuckSteps returns the names of the steps and items that need an operator.
func (s *State) StuckSteps() (names []string) {
	for st := range s.Branches() {
		if st.Stuck {
			names = append(names, st.Name)
		}
	}
	return names
}

func (s *State) stuck() bool {
	for st := range s.Branches() {
		if st.Stuck {
			return true
		}
	}
	return false
}

func (s *State) end(name string, status StepStatus, commandID string, at time.Time) {
	step, of := s.locate(name)
	of.count(step.Status, status, at)
	step.Status, step.EndedAt, step.Deadline, step.Scheduled = status, &at, nil, false
	if commandID != "" {
		step.Answered = append(step.Answered, commandID)
	}
	s.unstick(step)
}

// unstick applies that a step does not need an operator any more.
func (s *State) unstick(step *StepState) {
	if !step.Stuck {
		return
	}
	step.Reason, step.Stuck = "", false
	if s.stuck() {
		return
	}
	s.Status = StatusRunning
	if s.Compensating {
		s.Status = StatusCompensating
	}
}

// vouched ends a stuck step by an operator's decision.
func (s *State) vouched(step string, at time.Time) {
	if s.Step(step).Status == StepStatusCompensating {
		s.end(step, StepStatusCompensated, "", at)
	} else {
		s.end(step, StepStatusCompleted, "", at)
	}
}

// detour continues with a fallback, or compensates the saga if the fallback is empty.
func (s *State) detour(step *StepState, fallback, reason string) {
	step.Fallback = fallback
	if fallback == "" {
		s.turnBack(reason)
	}
}

func (s *State) turnBack(reason string) {
	s.Reason, s.Compensating = reason, true
	if !s.stuck() {
		s.Status = StatusCompensating
	}
}

// Rebuild returns the state of the instance with an id by folding its history. The bodies of the events must be of type HistoryEvent.
func Rebuild(id string, history []cqrs.Event) State {
	s := State{ID: id}
	for _, e := range history {
		s.Fold(e.Body.(HistoryEvent), e.Meta.Time)
	}
	return s
}
