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

// SagaView is an instance of a saga in the form that the partial template "saga" shows: its status, its diagram, its steps and its history.
type SagaView struct {
	State   saga.State
	Diagram diagram
	Runs    []*run
	History []*entry
	Stuck   []saga.StepState // the steps that need the decision of an operator
	Signals []awaited        // the signals that the saga waits for, if its definition is registered
	Summary string           // the status of the saga in a sentence

	reminders map[string]time.Duration // by step: how long the step still waits after its reminder

	planned []string          // the steps that the first event names
	steps   map[string]string // by the name of an item: the step that the item belongs to
	folds   map[string]*entry // by step: the line of the history into which plain lines of items are currently folded
	noted   map[string]int    // by step: the number of lines about its items that are not folded
}

// run is the action or the compensation of one step, with all attempts. The run of a for-each step combines the runs of its items.
type run struct {
	Step       string
	Compensate bool
	Class      string // in_progress, completed, refused, timed_out, compensating, compensated
	Result     string
	Started    time.Time
	Took       time.Duration // set if the run has ended
	Ended      bool
	Attempts   int
	Deadline   *time.Time
	Commands   []string // ids of the command messages
	Reason     string
	Child      string  // id of the child saga that the step runs
	From, To   float64 // start and end, in per cent of the whole time

	Counts string // counts of the items, as text
	Items  []*run // at most maxItems; items that need an operator or are in flight are first
	More   int    // number of items that are left out

	items    map[string]*run // all items by their names; nil: the step is no for-each step
	repeated bool            // the condition of the step did not hold, so its command is sent again
}

// entry is a line of the history.
type entry struct {
	After time.Duration // since the start
	At    time.Time
	Text  string
	Class string

	Lines []*entry // lines that are folded into this line; at most maxItems
	More  int      // number of lines that are left out
	Tally []tally  // counts of the folded lines
	Last  time.Duration
}

// tally counts how often something happened to items of a step.
type tally struct {
	what string
	n    int
}

// LoadSaga reads the history of an instance and returns its view. Registered are the definitions of the service. The error wraps cqrs.ErrNotFound if the
// instance has not started.
func LoadSaga(ctx context.Context, queries *cqrs.Queries, registered []*saga.Saga, id string) (*SagaView, error) {
	events, err := cqrs.Execute(ctx, queries, manager.History{ID: id})
	if err != nil {
		return nil, err
	}
	return NewSagaView(id, events, registered), nil
}

// NewSagaView makes the view of an instance from its events. If the instance's version of the definition is not in registered, the diagram is drawn from
// the events alone.
func NewSagaView(id string, events []cqrs.Event, registered []*saga.Saga) *SagaView {
	v := &SagaView{State: saga.Rebuild(id, events), reminders: map[string]time.Duration{}, steps: map[string]string{}, folds: map[string]*entry{}, noted: map[string]int{}}
	i := slices.IndexFunc(registered, func(sg *saga.Saga) bool { return sg.Name() == v.State.Definition && sg.Version() == v.State.DefVersion })
	if i >= 0 {
		for _, o := range registered[i].Outline() {
			if o.Reminder > 0 {
				v.reminders[o.Name] = o.Timeout - o.Reminder
			}
		}
	}
	for i := range v.State.Steps {
		for n := range v.State.Steps[i].Items {
			v.steps[v.State.Steps[i].Items[n].Name] = v.State.Steps[i].Name
		}
	}
	v.read(events)
	v.foldItems()
	v.scale()
	outline := v.outline()
	if i >= 0 {
		outline = registered[i].Outline()
		v.Signals = v.awaits(registered[i])
	}
	v.addChildren(outline)
	v.Diagram = drawSaga(v.State.Definition, outline, v)
	for st := range v.State.Branches() {
		if st.Stuck {
			v.Stuck = append(v.Stuck, *st)
		}
	}
	v.Summary = summary(v)
	if i < 0 && !v.State.Status.Ended() {
		v.Summary += fmt.Sprintf(" Version %d of this definition is not registered on this instance, so the saga cannot continue here: register that version again.", v.State.DefVersion)
	}
	return v
}

// deadline is the time at which a step times out. If the step has a reminder, the events of its first attempt have the time of the reminder instead.
func (v *SagaView) deadline(step string, attempt int, at time.Time) (end time.Time, reminder bool) {
	if rest := v.reminders[step]; rest > 0 && attempt <= 1 {
		return at.Add(rest), true
	}
	return at, false
}

// until is a text with the time at which a step times out, and the time of its reminder.
func (v *SagaView) until(step string, attempt int, at time.Time) string {
	end, reminder := v.deadline(step, attempt, at)
	text := end.UTC().Format(time.DateTime)
	if reminder {
		text += ", with a reminder at " + at.UTC().Format(time.DateTime)
	}
	return text
}

// summary describes the status of a saga in a sentence.
func summary(v *SagaView) string {
	switch v.State.Status {
	case saga.StatusRunning:
		if active := v.inFlight(); len(active) > 0 {
			return "The saga waits for " + strings.Join(active, " and ") + "."
		}
		return "The saga is running."
	case saga.StatusCompensating:
		return "Compensating: " + v.State.Reason + ". Completed steps are compensated in reverse order."
	case saga.StatusStuck:
		return v.stuckSentence()
	case saga.StatusCompleted:
		return "All steps are completed."
	case saga.StatusCompensated:
		return "Compensated: " + v.State.Reason + "."
	}
	return ""
}

// outline derives the outline of a definition that is not registered from the events: the planned steps, and the fallbacks and compensations that have
// started. The events do not name the pivot.
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

// scale sets the start and the end of each run in per cent of the whole time. An active run extends to the end.
func (v *SagaView) scale() {
	last := v.State.StartedAt
	for _, e := range v.History {
		last = latest(last, latest(e.At, v.State.StartedAt.Add(e.Last)))
	}
	whole := max(float64(last.Sub(v.State.StartedAt)), 1)
	for _, r := range v.Runs {
		r.scale(v.State.StartedAt, whole)
		for _, item := range r.Items {
			item.scale(v.State.StartedAt, whole)
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (r *run) scale(start time.Time, whole float64) {
	r.From = 100 * float64(r.Started.Sub(start)) / whole
	r.To = 100.0
	if r.Ended {
		r.To = r.From + 100*float64(r.Took)/whole
	}
	r.From = min(r.From, 99)
	r.To = max(min(r.To, 100), r.From+1)
}

// addChildren adds the ids of the child sagas that steps have started, because the events do not have these ids.
func (v *SagaView) addChildren(outline []saga.Outline) {
	for _, st := range outline {
		if st.Child == "" {
			continue
		}
		for _, compensate := range [...]bool{false, true} {
			r := v.find(st.Name, compensate)
			switch {
			case r == nil:
			case r.items == nil:
				r.Child = v.State.ChildID(st.Name)
			default:
				for _, item := range r.Items {
					item.Child = v.State.ChildID(item.Step)
				}
			}
		}
	}
}

// Title implements the title of a page.
func (v *SagaView) Title() string { return "Saga " + Short(v.State.ID) }

// Name is the name of the step, after "compensate" if the run is a compensation.
func (r *run) Name() string {
	if r.Compensate {
		return "compensate " + r.Step
	}
	return r.Step
}

// Width is the length of the run's bar in per cent.
func (r *run) Width() float64 { return r.To - r.From }

// find returns the run of a step or of an item; nil if the run has not begun.
func (v *SagaView) find(step string, compensate bool) *run {
	if of := v.steps[step]; of != "" {
		if r := v.find(of, compensate); r != nil {
			return r.items[step]
		}
		return nil
	}
	if i := slices.IndexFunc(v.Runs, func(r *run) bool { return r.Step == step && r.Compensate == compensate }); i >= 0 {
		return v.Runs[i]
	}
	return nil
}

// StuckShown returns the stuck steps for which the page shows forms.
func (v *SagaView) StuckShown() []saga.StepState { return v.Stuck[:min(len(v.Stuck), maxItems)] }

// StuckMore is the number of stuck steps for which the page shows no forms.
func (v *SagaView) StuckMore() int { return len(v.Stuck) - len(v.StuckShown()) }
