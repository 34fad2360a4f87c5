package opsui

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// SagaView is an instance as the part "saga" shows it: where it stands, its diagram, its steps and its history.
type SagaView struct {
	State   saga.State
	Diagram diagram
	Runs    []run
	History []entry
	Stuck   []saga.StepState // the steps that need the decision of an operator
	Signals []awaited        // that the saga waits for, if its definition is registered
	Summary string           // where the saga stands, in a sentence

	planned []string // the steps that the first event names
}

// run is the action or the compensation of one step, with all attempts.
type run struct {
	Step       string
	Compensate bool
	Class      string // in_progress, completed, refused, timed_out, compensating, compensated
	Result     string
	Started    time.Time
	Took       time.Duration // if it has ended
	Ended      bool
	Attempts   int
	Deadline   *time.Time
	Commands   []string // ids of the messages
	Reason     string
	From, To   float64 // its part of the whole time, in per cent
}

// entry is a line of the history.
type entry struct {
	After time.Duration // since the start
	At    time.Time
	Text  string
	Class string
}

// LoadSaga loads the view of an instance. The error wraps cqrs.ErrNotFound if it has not started.
func LoadSaga(ctx context.Context, queries *cqrs.Queries, registered []*saga.Saga, id string) (*SagaView, error) {
	events, err := cqrs.Execute(ctx, queries, manager.History{ID: id})
	if err != nil {
		return nil, err
	}
	return NewSagaView(id, events, registered), nil
}

// NewSagaView makes the view of an instance from its events. If its version of the definition is not registered, the diagram is drawn from
// the events alone.
func NewSagaView(id string, events []cqrs.Event, registered []*saga.Saga) *SagaView {
	v := &SagaView{State: saga.Rebuild(id, events)}
	v.read(events)
	v.scale()
	i := slices.IndexFunc(registered, func(sg *saga.Saga) bool { return sg.Name() == v.State.Definition && sg.Version() == v.State.DefVersion })
	outline := v.outline()
	if i >= 0 {
		outline = registered[i].Outline()
		v.Signals = awaits(v.State, registered[i])
	}
	v.Diagram = drawSaga(v.State.Definition, outline, v)
	var active []string
	for _, st := range v.State.Steps {
		switch {
		case st.InFlight() && v.State.Signals[st.Name] != "" && st.Status == saga.InProgress:
			active = append(active, fmt.Sprintf("the signal %q, until %s", v.State.Signals[st.Name], st.Deadline.UTC().Format(time.DateTime)))
		case st.InFlight() && (st.Wait || st.Scheduled):
			active = append(active, fmt.Sprintf("%q, until %s", st.Name, st.Deadline.UTC().Format(time.DateTime)))
		case st.InFlight():
			active = append(active, fmt.Sprintf("the result of %q", st.Name))
		}
		if st.Stuck {
			v.Stuck = append(v.Stuck, st)
		}
	}
	v.Summary = summary(v, active)
	if i < 0 && !v.State.Status.Ended() {
		v.Summary += fmt.Sprintf(" Version %d of this definition is not registered on this instance, so the saga cannot continue here: register that version again.", v.State.DefVersion)
	}
	return v
}

// summary says where a saga stands. The active steps are those that wait for an answer.
func summary(v *SagaView, active []string) string {
	switch v.State.Status {
	case saga.Running:
		switch len(active) {
		case 0:
			return "The saga is running."
		default:
			return "The saga waits for " + strings.Join(active, " and ") + "."
		}
	case saga.Compensating:
		return "Compensating: " + v.State.Reason + ". Completed steps are compensated in reverse order."
	case saga.Stuck:
		var stuck []string
		for _, st := range v.Stuck {
			stuck = append(stuck, fmt.Sprintf("%q is not completed after %s.", st.Name, attempts(st.Attempts)))
		}
		return strings.Join(stuck, " ")
	case saga.IsCompleted:
		return "All steps are completed."
	case saga.IsCompensated:
		return "Compensated: " + v.State.Reason + "."
	}
	return ""
}

// outline is what the events tell about a definition that is not registered: the planned steps, and the fallbacks and compensations that
// were taken. The events do not name the pivot.
func (v *SagaView) outline() []saga.Outline {
	var steps []saga.Outline
	stages := map[int32]int{}
	for _, st := range v.State.Steps {
		if st.InsteadOf == "" {
			stages[st.Stage]++
		}
	}
	last := saga.Outline{Name: "last command", Retriable: true}
	for _, st := range v.State.Steps {
		o := saga.Outline{Name: st.Name, Compensation: v.find(st.Name, true) != nil, Alternative: st.InsteadOf != "", Stage: int(st.Stage), Parallel: st.Stage > 0 && stages[st.Stage] > 1}
		if !slices.Contains(v.planned, st.Name) && !o.Alternative {
			last.Name = st.Name
			continue
		}
		steps = append(steps, o)
	}
	if len(steps) == 0 {
		steps = []saga.Outline{{Name: "started"}}
	}
	steps[0].Starts = "started"
	return append(steps, last)
}

// scale gives each run its part of the whole time. An active run extends to the end.
func (v *SagaView) scale() {
	last := v.State.StartedAt
	for _, e := range v.History {
		if e.At.After(last) {
			last = e.At
		}
	}
	whole := max(float64(last.Sub(v.State.StartedAt)), 1)
	for i := range v.Runs {
		r := &v.Runs[i]
		r.From = 100 * float64(r.Started.Sub(v.State.StartedAt)) / whole
		r.To = 100.0
		if r.Ended {
			r.To = r.From + 100*float64(r.Took)/whole
		}
		r.From = min(r.From, 99)
		r.To = max(min(r.To, 100), r.From+1)
	}
}

// Title implements the title of a page.
func (v *SagaView) Title() string { return "Saga " + Short(v.State.ID) }

// Name is the step, or "compensate" and the step.
func (r run) Name() string {
	if r.Compensate {
		return "compensate " + r.Step
	}
	return r.Step
}

// Width is the length of the bar in per cent.
func (r run) Width() float64 { return r.To - r.From }

func (v *SagaView) find(step string, compensate bool) *run {
	if i := slices.IndexFunc(v.Runs, func(r run) bool { return r.Step == step && r.Compensate == compensate }); i >= 0 {
		return &v.Runs[i]
	}
	return nil
}
