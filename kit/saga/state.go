package saga

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Status is where an instance stands.
type Status string

// An instance runs until it is completed, compensated, or needs a person.
const (
	StatusRunning      Status = "running"
	StatusCompensating Status = "compensating"
	StatusCompleted    Status = "completed"
	StatusCompensated  Status = "compensated"
	StatusStuck        Status = "stuck"
)

// Ended tells whether nothing will happen any more.
func (s Status) Ended() bool { return s == StatusCompleted || s == StatusCompensated }

// StepStatus is where a step stands.
type StepStatus string

// The steps' statuses.
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

// StepState is what an instance knows of a step.
type StepState struct {
	Name      string     `json:"name"`
	Status    StepStatus `json:"status"`
	Attempts  int        `json:"attempts"` // of the command that is, or was last, being asked
	StartedAt *time.Time `json:"started_at,omitempty"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Deadline  *time.Time `json:"deadline,omitempty"`  // of the answer that is being waited for
	Reason    string     `json:"reason,omitempty"`    // of a refusal, or why it is stuck
	InDoubt   bool       `json:"in_doubt,omitempty"`  // it was refused by one who may have done it
	Stuck     bool       `json:"stuck,omitempty"`     // it needs a person
	Wait      bool       `json:"wait,omitempty"`      // it sends no command
	Scheduled bool       `json:"scheduled,omitempty"` // it was answered, and its command is sent again at the deadline
	Stage     int32      `json:"stage,omitempty"`     // its number, from 1, if the saga has parallel steps
	Fallback  string     `json:"fallback,omitempty"`  // the step that is taken instead
	InsteadOf string     `json:"instead_of,omitempty"`

	// Generation is the number of child sagas of the step before the present one.
	Generation int `json:"generation,omitempty"`

	childRefused bool // the child has compensated itself, and an operator decides

	// Items are those of a step that is taken for each, once they are counted. They are named step#1 and so on. The status of the step is
	// theirs as a whole, and Counts has their number by status.
	Items  []StepState        `json:"items,omitempty"`
	Counts map[StepStatus]int `json:"counts,omitempty"`

	// Answered are the commands that got their answer: what else they say is no news.
	Answered []string `json:"answered,omitempty"`
}

// State is an instance: the fold of its facts. The zero State has not started.
type State struct {
	ID         string          `json:"saga_id"`
	Definition string          `json:"definition"`
	DefVersion int             `json:"definition_version"`
	Subject    string          `json:"subject"`
	Status     Status          `json:"status"`
	Steps      []StepState     `json:"steps"`
	StartedAt  time.Time       `json:"started_at"`
	EndedAt    *time.Time      `json:"ended_at,omitempty"`
	Reason     string          `json:"reason,omitempty"` // why it is being undone
	Data       json.RawMessage `json:"data,omitempty"`
	Version    int             `json:"version"` // number of facts

	// Parent is the saga that this one is a step of; nil: it is no child.
	Parent *Parent `json:"parent,omitempty"`

	// CancelRequested says that a cancellation was accepted.
	CancelRequested bool `json:"cancel_asked,omitempty"`

	// Compensating says that a stuck instance was on its way back.
	Compensating bool `json:"backwards,omitempty"`

	// Signals are those that steps wait for, or waited for, by the names of the steps. They stand here because few sagas have any.
	Signals map[string]string `json:"signals,omitempty"`

	// Awaits are the events that steps wait for, or waited for, by the names of the steps.
	Awaits map[string]Correlation `json:"awaits,omitempty"`

	// Until then the attempt before the last one may be handled, because a person had the command sent again before the deadline. It is
	// that of the step that was asked last, which is enough for the pivot: it stands alone.
	alive *time.Time

	// The command with which a timer was last set, and when that fires.
	timed string
	fires time.Time
}

// Step returns the state of the step with this name, or of one item of it, or nil. Fallbacks and the abort step are there once they were asked.
func (s *State) Step(name string) *StepState {
	step, _ := s.locate(name)
	return step
}

// Fold applies a fact that was recorded at a time.
func (s *State) Fold(f HistoryEvent, at time.Time) {
	s.Version++
	switch f := f.(type) {
	case Started:
		s.Definition, s.DefVersion, s.Subject, s.Data = f.Definition, f.Version, f.Subject, f.Data
		s.Status, s.StartedAt, s.Parent = StatusRunning, at, f.Parent
		s.Steps = make([]StepState, 0, len(f.Steps)+1) // one more: a fallback, or the step that ends a way back
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
			s.Signals = maps.Clone(s.Signals) // the state before stays as it is
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
		if s.EndedAt != nil { // a child is compensated after it was completed, when its timer was stopped
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
			if step := &s.Steps[i]; step.Items != nil && step.InFlight() { // an operator has resolved the saga, and the items that are left are not taken
				step.Status, step.EndedAt = StepStatusCompleted, &at
			}
		}
	case Compensated:
		s.Status, s.EndedAt = StatusCompensated, &at
	}
}

// asked applies that a step was asked; nil: none was.
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

// InFlight tells whether an answer to the step's action or compensation is due.
func (st *StepState) InFlight() bool {
	return st.Status == StepStatusInProgress || st.Status == StepStatusCompensating
}

// branch is what the step in flight is asked for.
func (st *StepState) branch() cqrs.Branch {
	if st.Status == StepStatusCompensating {
		return cqrs.BranchCompensation
	}
	return cqrs.BranchAction
}

// repeat is the branch of a timer that sends a command again which was answered. Another timer of the step is not meant by it.
const repeat cqrs.Branch = "repeat"

// timerBranch is the branch that a timer for the step in flight names.
func (st *StepState) timerBranch() cqrs.Branch {
	if st.Scheduled {
		return repeat
	}
	return st.branch()
}

// earliest is the step in flight whose answer is due first; nil if none is in flight.
func (s *State) earliest() (first *StepState) {
	for st := range s.Branches() {
		if st.InFlight() && (first == nil || st.Deadline.Before(*first.Deadline)) {
			first = st
		}
	}
	return first
}

// StuckSteps are the names of the steps that need a person.
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

// unstick applies that a step does not need a person any more.
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

// vouched ends a stuck step by a person's word.
func (s *State) vouched(step string, at time.Time) {
	if s.Step(step).Status == StepStatusCompensating {
		s.end(step, StepStatusCompensated, "", at)
	} else {
		s.end(step, StepStatusCompleted, "", at)
	}
}

// detour goes on by a fallback, or turns back.
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

// Rebuild folds a history of facts, each with its time.
func Rebuild(id string, history []cqrs.Event) State {
	s := State{ID: id}
	for _, e := range history {
		s.Fold(e.Body.(HistoryEvent), e.Meta.Time)
	}
	return s
}
