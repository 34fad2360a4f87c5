// Package sagatest tests sagas. A scenario says: given a history, when an event arrives, then the saga sends these commands. Faults runs a saga many
// times in a deterministic simulation with lost, repeated and reordered messages and crashes.
//
//	fulfilment := sagatest.For(fulfilment.Definition)
//	t.Run("reserved: authorise", fulfilment.Given(placed).When(reserved).Then(command.AuthorisePayment{…}))
//	t.Run("declined: release", fulfilment.Given(placed, reserved).When(declined).Then(command.ReleaseStock{…}))
package sagatest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// TimeOut is the input that fires the timer that is due first, and moves the time of the scenario to it. It is an error if no timer is set.
type TimeOut struct{}

// Reply is an answer to the step of this name, which must be in flight. It is needed for events that do not identify the step: saga.Refused,
// saga.Failed, saga.Processed and saga.NothingToCompensate, when several steps are in flight.
type Reply struct {
	Step  string
	Event any
}

// ChildStarted represents the command that starts a child saga in Then and Leaves: the child's definition and its starting event.
type ChildStarted struct {
	Definition string
	Event      any
}

// ChildCompensated represents the command that compensates a child saga in Then and Leaves.
type ChildCompensated struct{ Definition string }

// Key implements cqrs.Keyed.
func (ChildStarted) Key() string { return "" }

// Key implements cqrs.Keyed.
func (ChildCompensated) Key() string { return "" }

// ChildCompletes is the input that reports that the child saga of a step is completed. Data is the data that the child ended with.
type ChildCompletes struct {
	Step string
	Data any
}

// ChildIsCompensated is the input that reports that the child saga of a step is compensated, by itself or by its parent.
type ChildIsCompensated struct{ Step, Reason string }

// readable returns a command in the form that Then expects.
func (k Kit) readable(c cqrs.Keyed) cqrs.Keyed {
	switch c := c.(type) {
	case saga.StartChild:
		for _, child := range k.saga.Children() {
			if event, err := child.StartEvent(c); child.Name() == c.Definition && err == nil {
				return ChildStarted{c.Definition, event}
			}
		}
	case saga.CompensateChild:
		return ChildCompensated{c.Definition}
	}
	return c
}

// Late is an answer to the last command that was sent for this step and branch, even if it was answered before.
type Late struct {
	Event  any
	Step   string
	Branch cqrs.Branch
}

// Kit makes scenarios for one definition.
type Kit struct {
	saga *saga.Saga
	open func(cqrs.Keyed) bool
}

// For returns the kit of a definition.
func For[D any](d saga.Definition[D]) Kit { return Kit{saga: saga.New(d)} }

// While returns a kit for scenarios in which the circuit breaker of a command's destination is open if the function returns true for the command.
func (k Kit) While(open func(command cqrs.Keyed) bool) Kit { return Kit{k.saga, open} }

// Given begins a scenario with a history: the event that starts the saga, then events, saga.Cancel, TimeOut, Reply, Late or any other saga.Input. An event
// is the answer to the newest command in flight whose step expects an event of this type, and if there is none, to the command that was sent last. An
// event that a step with Await waits for completes the step; if no step waits for it yet, it is kept until one does.
func (k Kit) Given(inputs ...any) Scenario { return Scenario{k, inputs} }

// Scenario is a definition and a history. Given makes one.
type Scenario struct {
	kit   Kit
	given []any
}

// When adds the input whose outcome is tested.
func (s Scenario) When(input any) Outcome { return Outcome{s, input} }

// Outcome is a scenario with its last input. Each of its methods returns a test for testing.T.Run.
type Outcome struct {
	scenario Scenario
	when     any
}

// Then passes if exactly these commands are sent.
func (o Outcome) Then(want ...cqrs.Keyed) func(*testing.T) { return o.judge("", nil, want) }

// Ends passes if no command is sent and the saga then has this status.
func (o Outcome) Ends(status saga.Status) func(*testing.T) { return o.judge(status, nil, nil) }

// Leaves passes if exactly these commands are sent and the saga then has this status.
func (o Outcome) Leaves(status saga.Status, want ...cqrs.Keyed) func(*testing.T) {
	return o.judge(status, nil, want)
}

// Refused passes if the input is refused with an error that wraps want.
func (o Outcome) Refused(want error) func(*testing.T) { return o.judge("", want, nil) }

func (o Outcome) judge(status saga.Status, wantErr error, want []cqrs.Keyed) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		if err := o.verdict(status, wantErr, want); err != nil {
			t.Fatal(err)
		}
	}
}

// verdict runs the scenario. The error tells the difference from the expected outcome, or the fault of a definition with which the
// service would refuse to start.
func (o Outcome) verdict(status saga.Status, wantErr error, want []cqrs.Keyed) error {
	if err := o.scenario.kit.saga.Check(); err != nil {
		return fmt.Errorf("the service would not start with this definition: %w", err)
	}
	run := Run{Saga: o.scenario.kit.saga, Open: o.scenario.kit.open, State: saga.State{ID: "saga-1"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for i, input := range o.scenario.given {
		if _, err := run.Feed(input); err != nil {
			return fmt.Errorf("given %d, %+v: %w", i+1, input, err)
		}
	}
	reaction, err := run.Feed(o.when)
	if !errors.Is(err, wantErr) || (wantErr == nil && err != nil) {
		return fmt.Errorf("got error %v, want %v", err, wantErr) //nolint:errorlint // to be read, not to be handled
	}
	var got []cqrs.Keyed
	for _, c := range reaction.Commands {
		got = append(got, o.scenario.kit.readable(c.Body))
	}
	if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
		return fmt.Errorf("sent %s, want %s", typed(got), typed(want))
	}
	if status != "" && run.State.Status != status {
		return fmt.Errorf("the saga is %s, want %s", run.State.Status, status)
	}
	return nil
}

// typed formats commands with their types.
func typed(commands []cqrs.Keyed) string {
	texts := make([]string, len(commands))
	for i, c := range commands {
		texts[i] = fmt.Sprintf("%T%+v", c, c)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// Run feeds inputs to an instance, one after the other. Saga and State.ID must be set. Now grows by a millisecond with each input.
type Run struct {
	Saga  *saga.Saga
	State saga.State
	Now   time.Time
	Open  func(cqrs.Keyed) bool
	Sent  []saga.Command // all commands so far

	timers []saga.Timer // timers that have not fired
	early  []any        // events that arrived before the saga waits for them
}

// Feed passes an input to the engine, with the inputs of Kit.Given, and stores the new state. It returns the reaction, and the errors of Saga.React.
func (r *Run) Feed(input any) (saga.Reaction, error) {
	if _, isInput := input.(saga.Input); !isInput && r.State.Version > 0 {
		switch step, known := r.awaited(input); {
		case step != "":
			input = saga.EventInput{Step: step, Event: input, MessageID: "event"}
		case known && !r.answers(input):
			r.early = append(r.early, input)
			return saga.Reaction{State: r.State}, nil
		}
	}
	in, err := r.input(input)
	if err != nil {
		return saga.Reaction{}, err
	}
	r.Now = r.Now.Add(time.Millisecond)
	reaction, err := r.Saga.React(r.State, in, saga.Env{Now: r.Now, Open: r.Open})
	if err != nil {
		return reaction, err
	}
	r.State = reaction.State
	r.Sent = append(r.Sent, reaction.Commands...)
	r.timers = append(r.timers, reaction.Timers...)
	if _, timeout := input.(TimeOut); timeout && len(reaction.Events) == 0 && len(reaction.Timers) > 0 {
		return r.Feed(input) // the timer was set for another step and was set anew
	}
	return r.feedEarly(reaction)
}

// feedEarly feeds the events that arrived before the saga waited for them, and adds their reactions to a reaction.
func (r *Run) feedEarly(reaction saga.Reaction) (saga.Reaction, error) {
	for _, w := range reaction.Waits {
		i := slices.IndexFunc(r.early, func(e any) bool { return reflect.TypeOf(e).String() == w.Event })
		if i < 0 {
			continue
		}
		e := r.early[i]
		r.early = slices.Delete(r.early, i, i+1)
		more, err := r.Feed(saga.EventInput{Step: w.Step, Event: e, MessageID: "early"})
		if err != nil {
			return reaction, err
		}
		reaction.State, reaction.Events, reaction.Commands = more.State, append(reaction.Events, more.Events...), append(reaction.Commands, more.Commands...)
	}
	return reaction, nil
}

// awaited returns the step that waits for an event, or "", and whether a step of the definition waits for such events at all.
func (r *Run) awaited(event any) (step string, known bool) {
	for _, a := range r.Saga.AwaitedEvents() {
		if a.Type != reflect.TypeOf(event) {
			continue
		}
		known = true
		if st := r.State.Step(a.Step); st != nil && st.Status == saga.StepStatusInProgress {
			return a.Step, true
		}
	}
	return "", known
}

func (r *Run) input(input any) (saga.Input, error) {
	switch input := input.(type) {
	case ChildCompletes:
		data, err := json.Marshal(input.Data)
		end := saga.EndChild{Step: input.Step, ChildID: r.State.ChildID(input.Step), Status: saga.StatusCompleted, Data: data}
		return saga.ChildEnded{EndChild: end}, err
	case ChildIsCompensated:
		end := saga.EndChild{Step: input.Step, ChildID: r.State.ChildID(input.Step), Status: saga.StatusCompensated, Reason: input.Reason}
		return saga.ChildEnded{EndChild: end}, nil
	case saga.Input:
		return input, nil
	case TimeOut:
		if len(r.timers) == 0 {
			return nil, errors.New("no timer is set")
		}
		slices.SortStableFunc(r.timers, func(a, b saga.Timer) int { return a.DueAt.Compare(b.DueAt) })
		next := r.timers[0]
		r.timers = r.timers[1:]
		if next.DueAt.After(r.Now) {
			r.Now = next.DueAt
		}
		return next.Timeout, nil
	case Reply:
		if st := r.State.Step(input.Step); st == nil || !st.InFlight() {
			return nil, fmt.Errorf("no command of step %q is in flight", input.Step)
		}
		for _, c := range slices.Backward(r.Sent) {
			if c.Step == input.Step {
				return saga.Answer{Event: input.Event, Step: c.Step, Branch: c.Branch, CommandID: c.ID}, nil
			}
		}
		return nil, fmt.Errorf("no command of step %q was sent", input.Step)
	case Late:
		for _, c := range slices.Backward(r.Sent) {
			if c.Step == input.Step && c.Branch == input.Branch {
				return saga.Answer{Event: input.Event, Step: c.Step, Branch: c.Branch, CommandID: c.ID}, nil
			}
		}
		return nil, fmt.Errorf("no command of step %q and branch %q was sent", input.Step, input.Branch)
	}
	if r.State.Version == 0 || r.Saga.Starts(input) {
		return saga.Start{Event: input, Subject: r.Saga.Subject(input, "subject-1")}, nil
	}
	if c := r.asked(input); c != nil {
		return saga.Answer{Event: input, Step: c.Step, Branch: c.Branch, CommandID: c.ID}, nil
	}
	last := r.Sent[len(r.Sent)-1]
	return saga.Answer{Event: input, Step: last.Step, Branch: last.Branch, CommandID: last.ID}, nil
}

// asked returns the newest command in flight that an event answers, or nil.
func (r *Run) asked(event any) *saga.Command {
	for i, c := range slices.Backward(r.Sent) {
		if st := r.State.Step(c.Step); st.InFlight() && (st.Status == saga.StepStatusCompensating) == (c.Branch == cqrs.BranchCompensation) && r.Saga.Awaits(c.Step, c.Branch, event) {
			return &r.Sent[i]
		}
	}
	return nil
}

func (r *Run) answers(event any) bool { return r.asked(event) != nil }
