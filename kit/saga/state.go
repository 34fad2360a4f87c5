package saga

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Status is where an instance stands.
type Status string

// An instance runs until it is completed, compensated, or needs a person.
const (
	Running       Status = "running"
	Compensating  Status = "compensating"
	IsCompleted   Status = "completed"
	IsCompensated Status = "compensated"
	Stuck         Status = "stuck"
)

// Ended tells whether nothing will happen any more.
func (s Status) Ended() bool { return s == IsCompleted || s == IsCompensated }

// StepStatus is where a step stands.
type StepStatus string

// The steps' statuses.
const (
	Waiting       StepStatus = "waiting"
	InProgress    StepStatus = "in_progress"
	StepDone      StepStatus = "completed"
	StepIsRefused StepStatus = "refused"
	TimedOut      StepStatus = "timed_out"
	Undoing       StepStatus = "compensating"
	IsUndone      StepStatus = "compensated"
)

// StepState is what an instance knows of a step.
type StepState struct {
	Name      string     `json:"name"`
	Status    StepStatus `json:"status"`
	Attempts  int        `json:"attempts"` // of the command that is, or was last, being asked
	StartedAt *time.Time `json:"started_at,omitempty"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Deadline  *time.Time `json:"deadline,omitempty"` // of the answer that is being waited for
	Reason    string     `json:"reason,omitempty"`   // of a refusal, or why it is stuck
	InDoubt   bool       `json:"in_doubt,omitempty"` // it was refused by one who may have done it
	Fallback  string     `json:"fallback,omitempty"` // the step that is taken instead
	InsteadOf string     `json:"instead_of,omitempty"`

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

	// CancelRequested says that a cancellation was accepted.
	CancelRequested bool `json:"cancel_asked,omitempty"`

	// Compensating says that a stuck instance was on its way back.
	Compensating bool `json:"backwards,omitempty"`

	// The command with which a timer was last set, and when that fires.
	timed string
	fires time.Time
}

// Step returns the state of the step with this name, or nil. Fallbacks and the abort step are there once they were asked.
func (s *State) Step(name string) *StepState {
	for i := range s.Steps {
		if s.Steps[i].Name == name {
			return &s.Steps[i]
		}
	}
	return nil
}

// Fold applies a fact that was recorded at a time.
func (s *State) Fold(f HistoryEvent, at time.Time) {
	s.Version++
	switch f := f.(type) {
	case Started:
		s.Definition, s.DefVersion, s.Subject, s.Data = f.Definition, f.Version, f.Subject, f.Data
		s.Status, s.StartedAt = Running, at
		s.Steps = make([]StepState, 0, len(f.Steps)+1) // one more: a fallback, or the step that ends a way back
		for _, name := range f.Steps {
			s.Steps = append(s.Steps, StepState{Name: name, Status: Waiting})
		}
		s.asked(f.Next, at)
	case CommandSent:
		s.asked(&f, at)
	case StepCompleted:
		if len(f.Data) > 0 {
			s.Data = f.Data
		}
		s.end(f.Step, StepDone, f.CommandID, at)
		s.asked(f.Next, at)
	case StepRefused:
		s.end(f.Step, StepIsRefused, f.CommandID, at)
		step := s.Step(f.Step)
		step.Reason, step.InDoubt = f.Reason, f.InDoubt
		s.detour(step, f.Fallback, f.Reason)
	case StepTimedOut:
		s.end(f.Step, TimedOut, "", at)
		s.detour(s.Step(f.Step), f.Fallback, f.Step+": no answer in time")
	case StepCompensated:
		s.end(f.Step, IsUndone, f.CommandID, at)
		s.asked(f.Next, at)
	case CancelRequested:
		s.CancelRequested = true
		s.turnBack(f.Reason)
	case AnswerIgnored, StepRetried:
	case StepSkipped:
		s.vouched(f.Step, at)
	case Resolved:
		s.vouched(f.Step, at)
	case NeedsIntervention:
		s.Status = Stuck
		s.Step(f.Step).Reason = f.Reason
	case Completed:
		s.Status, s.EndedAt = IsCompleted, &at
	case Compensated:
		s.Status, s.EndedAt = IsCompensated, &at
	}
}

// asked applies that a step was asked; nil: none was.
func (s *State) asked(f *CommandSent, at time.Time) {
	if f == nil {
		return
	}
	step := s.Step(f.Step)
	if step == nil {
		place := len(s.Steps)
		if i := slices.IndexFunc(s.Steps, func(st StepState) bool { return st.Name == f.InsteadOf }); i >= 0 {
			place = i + 1
		}
		s.Steps = slices.Insert(s.Steps, place, StepState{Name: f.Step, InsteadOf: f.InsteadOf})
		step = &s.Steps[place]
	}
	step.Status, step.Attempts, step.Deadline, step.EndedAt = InProgress, f.Attempt, &f.Deadline, nil
	if f.Branch == cqrs.BranchCompensation {
		step.Status = Undoing
	}
	if step.StartedAt == nil {
		step.StartedAt = &at
	}
	if f.Timed {
		s.timed, s.fires = f.CommandID, f.Deadline
	}
}

// waits is the step whose answer is being waited for, and of what; nil if none is.
func (s *State) waits() (*StepState, cqrs.Branch) {
	for i := range s.Steps {
		switch s.Steps[i].Status {
		case InProgress:
			return &s.Steps[i], cqrs.BranchAction
		case Undoing:
			return &s.Steps[i], cqrs.BranchCompensation
		case Waiting, StepDone, StepIsRefused, TimedOut, IsUndone:
		}
	}
	return nil, ""
}

func (s *State) end(name string, status StepStatus, commandID string, at time.Time) {
	step := s.Step(name)
	step.Status, step.EndedAt, step.Deadline = status, &at, nil
	if commandID != "" {
		step.Answered = append(step.Answered, commandID)
	}
	if s.Status == Stuck {
		step.Reason = ""
		s.Status = Running
		if s.Compensating {
			s.Status = Compensating
		}
	}
}

// vouched ends a stuck step by a person's word.
func (s *State) vouched(step string, at time.Time) {
	if s.Step(step).Status == Undoing {
		s.end(step, IsUndone, "", at)
	} else {
		s.end(step, StepDone, "", at)
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
	s.Status, s.Reason, s.Compensating = Compensating, reason, true
}

// Rebuild folds a history of facts, each with its time.
func Rebuild(id string, history []cqrs.Event) State {
	s := State{ID: id}
	for _, e := range history {
		s.Fold(e.Body.(HistoryEvent), e.Meta.Time)
	}
	return s
}
