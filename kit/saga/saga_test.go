package saga_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

// The tests have their own saga, independent of the example: three steps, of which the second is the pivot.
type (
	begun   struct{ ID string }
	did     struct{ Step string }
	didB    struct{}
	didC    struct{}
	refused struct{ Why string }
	undone  struct{}
	ended   struct{}
	ask     struct{ What string }
	data    struct{ ID, Seen string }
)

func (a ask) Key() string { return a.What }

func asks(what string) func(data) cqrs.Keyed {
	return func(d data) cqrs.Keyed { return ask{what + " " + d.ID + d.Seen} }
}

func definition() saga.Definition[data] {
	return saga.Definition[data]{
		Name: "test", Version: 1, AlertAfter: 3,
		Start: saga.On(func(d *data, e begun) { d.ID = e.ID }),
		Steps: []saga.Step[data]{
			{
				Name: "do a", Action: asks("a"), Completed: saga.On(func(d *data, e did) { d.Seen = "!" }), Compensation: asks("undo a"),
				Compensated: saga.Event[undone, data](), Timeout: time.Second, Refused: []saga.Refusal{saga.RefusedBy(func(e refused) string { return e.Why })},
			},
			{Name: "do b", Action: asks("b"), Completed: saga.Event[didB, data](), Timeout: time.Second, Pivot: true},
			{Name: "do c", Action: asks("c"), Completed: saga.Event[didC, data](), Timeout: time.Second, Retriable: true},
		},
		OnCompensated: saga.FinalStep[data]{
			Name: "give up", Action: func(d data, reason string) cqrs.Keyed { return ask{"give up: " + reason} },
			Completed: saga.Event[ended, data](), Timeout: time.Second,
		},
	}
}

// withFallback is the definition whose first step has a fallback.
func withFallback() saga.Definition[data] {
	d := definition()
	d.Steps[0].Fallback = &saga.Fallback[data]{
		Name: "do a2", Action: asks("a2"), Completed: saga.Event[did, data](), Compensation: asks("undo a2"), Compensated: saga.Event[undone, data](), Timeout: time.Second,
		Refused: []saga.Refusal{saga.RefusedBy(func(e refused) string { return e.Why })}, WhenOpen: true, WhenTimedOut: true, WhenRefused: []string{"full"},
	}
	return d
}

func TestFallback(t *testing.T) {
	theSaga := sagatest.For(withFallback())
	open := theSaga.While(func(c cqrs.Keyed) bool { return strings.HasPrefix(c.Key(), "a ") })
	timeOut, cancel := sagatest.TimeOut{}, saga.Cancel{Reason: "by hand"}

	t.Run("processed without an event", theSaga.Given(begun{"1"}).When(saga.Processed{}).Then(ask{"b 1"}))
	t.Run("undone without an event", theSaga.Given(begun{"1"}, timeOut).When(saga.Processed{}).Leaves(saga.StatusRunning, ask{"a2 1"}))
	t.Run("not needed", theSaga.Given(begun{"1"}).When(did{}).Then(ask{"b 1!"}))
	t.Run("breaker open: not even asked", open.Given().When(begun{"1"}).Leaves(saga.StatusRunning, ask{"a2 1"}))
	t.Run("refused for a listed reason", theSaga.Given(begun{"1"}).When(refused{"full"}).Leaves(saga.StatusRunning, ask{"a2 1"}))
	t.Run("refused for another reason", theSaga.Given(begun{"1"}).When(refused{"no"}).Leaves(saga.StatusCompensating, ask{"give up: no"}))
	t.Run("timed out: undone first", theSaga.Given(begun{"1"}).When(timeOut).Leaves(saga.StatusRunning, ask{"undo a 1"}))
	t.Run("timed out, undone", theSaga.Given(begun{"1"}, timeOut).When(undone{}).Leaves(saga.StatusRunning, ask{"a2 1"}))
	t.Run("timed out, nothing to undo", theSaga.Given(begun{"1"}, timeOut).When(saga.NothingToCompensate{}).Leaves(saga.StatusRunning, ask{"a2 1"}))
	t.Run("given up: undone first", theSaga.Given(begun{"1"}).When(saga.Failed{Reason: "panic"}).Leaves(saga.StatusRunning, ask{"undo a 1"}))
	t.Run("the late answer to the first way changes nothing", theSaga.Given(begun{"1"}, timeOut).
		When(sagatest.Late{Event: did{}, Step: "do a", Branch: cqrs.BranchAction}).Leaves(saga.StatusRunning))
	t.Run("done by the fallback: on", theSaga.Given(begun{"1"}, refused{"full"}).When(did{}).Then(ask{"b 1"}))
	t.Run("undone with the rest", theSaga.Given(begun{"1"}, refused{"full"}, did{}).When(refused{"no"}).Then())
	t.Run("the fallback refuses too", theSaga.Given(begun{"1"}, refused{"full"}).When(refused{"full"}).Leaves(saga.StatusCompensating, ask{"give up: full"}))
	t.Run("the fallback times out too", theSaga.Given(begun{"1"}, refused{"full"}).When(timeOut).Leaves(saga.StatusCompensating, ask{"undo a2 1"}))
	t.Run("cancelled while the first way is undone", theSaga.Given(begun{"1"}, timeOut).When(cancel).Leaves(saga.StatusCompensating))
	t.Run("cancelled then: no fallback", theSaga.Given(begun{"1"}, timeOut, cancel).When(undone{}).Leaves(saga.StatusCompensating, ask{"give up: by hand"}))
	t.Run("cancelled at the fallback", theSaga.Given(begun{"1"}, refused{"full"}).When(cancel).Leaves(saga.StatusCompensating, ask{"undo a2 1"}))
	t.Run("undoing is stuck: skipped", theSaga.Given(begun{"1"}, timeOut, saga.Refused{Reason: "no"}).When(saga.Skip{By: "ada", Reason: "r"}).Leaves(saga.StatusRunning, ask{"a2 1"}))
	t.Run("undoing is stuck: resolved", theSaga.Given(begun{"1"}, timeOut, saga.Refused{Reason: "no"}).When(saga.Resolve{By: "ada", Reason: "r"}).Leaves(saga.StatusRunning, ask{"a2 1"}))

	run := sagatest.Run{Saga: saga.New(withFallback()), State: saga.State{ID: "s"}}
	for _, input := range []any{begun{"1"}, timeOut, undone{}, did{}} {
		_, err := run.Feed(input)
		require.NoError(t, err)
	}
	var timeline []string
	for _, st := range run.State.Steps {
		timeline = append(timeline, fmt.Sprint(st.Name, ": ", st.Status, " ", st.Fallback, st.InsteadOf))
	}
	require.Equal(t, []string{"do a: compensated do a2", "do a2: completed do a", "do b: in_progress ", "do c: waiting "}, timeline)
	require.Contains(t, saga.New(withFallback()).Diagram(), "undo_do_a --> do_a2: undone, as it was in doubt")
	require.Contains(t, saga.New(withFallback()).Diagram(), "do_a2 --> do_b")
}

// A participant whose command became a dead letter may have executed part of it.
func TestGivenUp(t *testing.T) {
	theSaga, failed := sagatest.For(definition()), saga.Failed{Reason: "panic"}
	t.Run("before the pivot: undone", theSaga.Given(begun{"1"}).When(failed).Leaves(saga.StatusCompensating, ask{"undo a 1"}))
	t.Run("then the subject is told why", theSaga.Given(begun{"1"}, failed).When(undone{}).Then(ask{"give up: panic"}))
	t.Run("the pivot: stuck", theSaga.Given(begun{"1"}, did{}).When(failed).Ends(saga.StatusStuck))
	t.Run("after the pivot: stuck", theSaga.Given(begun{"1"}, did{}, didB{}).When(failed).Ends(saga.StatusStuck))
	t.Run("in a compensation: stuck", theSaga.Given(begun{"1"}, sagatest.TimeOut{}).When(failed).Ends(saga.StatusStuck))
	t.Run("the answer after a redrive frees it", theSaga.Given(begun{"1"}, did{}, failed).When(didB{}).Leaves(saga.StatusRunning, ask{"c 1!"}))
}

func TestDataIsRemembered(t *testing.T) {
	theSaga := sagatest.For(definition())
	t.Run("from the start", theSaga.Given().When(begun{"1"}).Then(ask{"a 1"}))
	t.Run("from an answer", theSaga.Given(begun{"1"}).When(did{}).Then(ask{"b 1!"}))
	t.Run("for the compensation", theSaga.Given(begun{"1"}).When(sagatest.TimeOut{}).Then(ask{"undo a 1"}))
	t.Run("the reason", theSaga.Given(begun{"1"}).When(refused{"why"}).Then(ask{"give up: why"}))
}

func TestACheckFindsEveryFault(t *testing.T) {
	require.NoError(t, definition().Check())
	for want, spoil := range map[string]func(*saga.Definition[data]){
		"needs a name and a version":        func(d *saga.Definition[data]) { d.Version = 0 },
		"has no event that starts it":       func(d *saga.Definition[data]) { d.Start = saga.Expected[data]{} },
		"has no steps":                      func(d *saga.Definition[data]) { d.Steps = nil },
		"needs OnCompensated":               func(d *saga.Definition[data]) { d.OnCompensated.Action = nil },
		`a name of its own, has "do a"`:     func(d *saga.Definition[data]) { d.Steps[1].Name = "do a" },
		`a name of its own, has "give up"`:  func(d *saga.Definition[data]) { d.Steps[1].Name = "give up" },
		"needs a command, a completing":     func(d *saga.Definition[data]) { d.Steps[0].Timeout = 0 },
		"are both the pivot":                func(d *saga.Definition[data]) { d.Steps[2].Pivot = true },
		`"do a" comes before the pivot: it`: func(d *saga.Definition[data]) { d.Steps[0].Compensation = nil },
		`"do c" comes after the pivot: it`:  func(d *saga.Definition[data]) { d.Steps[2].Retriable = false },
		`"do a" is retriable, but stands`:   func(d *saga.Definition[data]) { d.Steps[0].Retriable = true },
	} {
		d := definition()
		spoil(&d)
		require.ErrorContains(t, saga.New(d).Check(), want)
	}
	for want, spoil := range map[string]func(*saga.Definition[data]){
		`fallback "do a2" needs a compensation`: func(d *saga.Definition[data]) { d.Steps[0].Fallback.Compensation = nil },
		`"do a2" would never be taken`: func(d *saga.Definition[data]) {
			d.Steps[0].Fallback.WhenOpen, d.Steps[0].Fallback.WhenTimedOut, d.Steps[0].Fallback.WhenRefused = false, false, nil
		},
		`"do b" is the pivot or comes after it`: func(d *saga.Definition[data]) { d.Steps[1].Fallback = d.Steps[0].Fallback },
		`a name of its own, has "do a"`:         func(d *saga.Definition[data]) { d.Steps[0].Fallback.Name = "do a" },
	} {
		d := withFallback()
		spoil(&d)
		require.ErrorContains(t, d.Check(), want)
	}
	require.NoError(t, withFallback().Check())
	d := definition()
	d.Version, d.OnCompensated.Action = 0, nil
	require.ErrorContains(t, d.Check(), "needs OnCompensated", "all faults at once")
	require.ErrorContains(t, d.Check(), "needs a name and a version", "all faults at once")
}

func TestPausesGrowAndTheSagaIsReported(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(definition()), State: saga.State{ID: "s"}, Now: time.Unix(0, 0)}
	feed := func(input any) saga.Reaction {
		reaction, err := run.Feed(input)
		require.NoError(t, err)
		return reaction
	}
	feed(begun{"1"})
	feed(did{})
	var pauses []time.Duration
	for attempt := 2; attempt <= 12; attempt++ {
		reaction := feed(sagatest.TimeOut{})
		require.Len(t, reaction.Commands, 1, "it is asked again, stuck or not")
		require.Equal(t, reaction.Timers[0].DueAt, reaction.Commands[0].ExpiresAt, "an attempt ends when the next one begins")
		pauses = append(pauses, reaction.Timers[0].DueAt.Sub(run.Now))
		require.Equal(t, attempt > 3, run.State.Status == saga.StatusStuck, "attempt %d", attempt)
	}
	for i, pause := range pauses {
		middle := min(time.Second<<(i+1), 5*time.Minute)
		require.InDelta(t, middle.Seconds(), pause.Seconds(), 0.2*middle.Seconds()+0.001, "attempt %d", i+2)
	}
	feed(didB{})
	require.Equal(t, saga.StatusRunning, run.State.Status, "the answer frees it")
	require.Empty(t, run.State.Step("do b").Reason)
}

func TestAPersonHelpsAStuckSaga(t *testing.T) {
	theSaga, no, timeOut := sagatest.For(definition()), saga.Refused{Reason: "no"}, sagatest.TimeOut{}
	back := []any{begun{"1"}, timeOut, no}                       // the compensation of "do a" is refused
	pivot := []any{begun{"1"}, did{}, timeOut, timeOut, timeOut} // "do b" does not answer
	last := []any{begun{"1"}, did{}, didB{}, no}                 // "do c" is refused
	abort := []any{begun{"1"}, refused{"why"}, no}               // "give up" is refused
	skip, resolve := saga.Skip{By: "ada", Reason: "r"}, saga.Resolve{By: "ada", Reason: "r"}

	t.Run("backwards: retried", theSaga.Given(back...).When(saga.Retry{By: "ada"}).Then(ask{"undo a 1"}))
	t.Run("backwards: retried, then answered", theSaga.Given(append(back, saga.Retry{By: "ada"})...).When(undone{}).Leaves(saga.StatusCompensating, ask{"give up: do a: no answer in time"}))
	t.Run("backwards: skipped", theSaga.Given(back...).When(skip).Leaves(saga.StatusCompensating, ask{"give up: do a: no answer in time"}))
	t.Run("backwards: resolved", theSaga.Given(back...).When(resolve).Leaves(saga.StatusCompensating, ask{"give up: do a: no answer in time"}))
	t.Run("pivot: retried", theSaga.Given(pivot...).When(saga.Retry{By: "ada"}).Then(ask{"b 1!"}))
	t.Run("pivot: skipped", theSaga.Given(pivot...).When(skip).Leaves(saga.StatusRunning, ask{"c 1!"}))
	t.Run("pivot: resolved, the subject gets its final command", theSaga.Given(pivot...).When(resolve).Leaves(saga.StatusRunning, ask{"c 1!"}))
	t.Run("last: retried", theSaga.Given(last...).When(saga.Retry{By: "ada"}).Then(ask{"c 1!"}))
	t.Run("last: resolved", theSaga.Given(last...).When(resolve).Ends(saga.StatusCompleted))
	t.Run("abort: skipped", theSaga.Given(abort...).When(skip).Ends(saga.StatusCompensated))
	t.Run("abort: resolved", theSaga.Given(abort...).When(resolve).Ends(saga.StatusCompensated))
	t.Run("running: none of it", theSaga.Given(begun{"1"}).When(saga.Retry{By: "ada"}).Refused(saga.ErrNotStuck))
	t.Run("ended: none of it", theSaga.Given(append(last, resolve)...).When(skip).Refused(saga.ErrNotStuck))
}

// A saga whose answers come in time needs one timer, which is stopped when the saga ends.
func TestOneTimerIsEnough(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(definition()), State: saga.State{ID: "s"}}
	started, err := run.Feed(begun{"1"})
	require.NoError(t, err)
	require.Len(t, started.Timers, 1)
	for _, answer := range []any{did{}, didB{}} {
		reaction, err := run.Feed(answer)
		require.NoError(t, err)
		require.Empty(t, reaction.Timers)
		require.Empty(t, reaction.CancelledTimers)
	}
	again, err := run.Feed(started.Timers[0].Timeout)
	require.NoError(t, err)
	require.Empty(t, again.Events)
	require.Len(t, again.Timers, 1, "set anew for what is being waited for")
	require.Equal(t, *run.State.Step("do c").Deadline, again.Timers[0].DueAt)
	done, err := run.Feed(didC{})
	require.NoError(t, err)
	require.Equal(t, []string{started.Timers[0].ID}, done.CancelledTimers)
	for range 3 { // a stopped timer may still fire, and more than once
		late, err := run.Feed(started.Timers[0].Timeout)
		require.NoError(t, err)
		require.Empty(t, late.Events)
		require.Empty(t, late.Timers)
	}
}

// For every step in flight, a timer that has not fired is due by the step's deadline. This holds although stored events have times a little later
// than those of the decisions, and although timers fire late or twice.
func TestATimerIsAlwaysDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := withFallback()
		for i := range d.Steps {
			d.Steps[i].Timeout = time.Duration(rapid.IntRange(100, 3000).Draw(t, "within, ms")) * time.Millisecond
		}
		s, now := saga.New(d), time.Unix(0, 0)
		var history []cqrs.Event
		var sent []saga.Command
		pending, fired := map[string]saga.Timer{}, false
		feed := func(in saga.Input) {
			reaction, err := s.React(saga.Rebuild("s", history), in, saga.Env{Now: now})
			if err != nil {
				return
			}
			for _, f := range reaction.Events {
				at := now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "stored later")) * 100 * time.Millisecond)
				history = append(history, cqrs.Event{Body: f, Meta: cqrs.Meta{Time: at}})
			}
			sent = append(sent, reaction.Commands...)
			for _, timer := range reaction.Timers {
				pending[timer.ID] = timer
			}
			for _, id := range reaction.CancelledTimers {
				delete(pending, id)
			}
		}
		feed(saga.Start{Event: begun{"1"}, Subject: "1"})
		answers := []any{did{}, didB{}, didC{}, refused{"no"}, refused{"full"}, undone{}, ended{}, saga.Failed{Reason: "no"}}
		for range rapid.IntRange(1, 60).Draw(t, "inputs") {
			switch rapid.SampledFrom([]string{"answer", "answer", "time", "timer", "cancel", "person"}).Draw(t, "kind") {
			case "answer":
				c := sent[len(sent)-1]
				feed(saga.Answer{Event: rapid.SampledFrom(answers).Draw(t, "answer"), Step: c.Step, Branch: c.Branch, CommandID: c.ID})
			case "time":
				now = now.Add(time.Duration(rapid.IntRange(0, 8000).Draw(t, "ms")) * time.Millisecond)
			case "timer":
				for _, id := range slices.Sorted(maps.Keys(pending)) {
					if timer := pending[id]; !timer.DueAt.After(now) {
						delete(pending, id)
						fired = true
						feed(timer.Timeout)
						if rapid.Bool().Draw(t, "twice") {
							feed(timer.Timeout)
						}
					}
				}
			case "cancel":
				feed(saga.Cancel{Reason: "by hand"})
			case "person":
				feed(rapid.SampledFrom([]saga.Input{saga.Retry{}, saga.Skip{}, saga.Resolve{}}).Draw(t, "decision"))
			}
			state := saga.Rebuild("s", history)
			for _, timer := range pending {
				if state.Status.Ended() && !fired && timer.DueAt.After(now) {
					t.Fatalf("it has ended, and a timer is left: %+v", timer)
				}
			}
			for _, st := range state.Steps {
				if st.Status != saga.StepStatusInProgress && st.Status != saga.StepStatusCompensating {
					continue
				}
				next := time.Unix(1<<40, 0)
				for _, timer := range pending {
					if timer.DueAt.Before(next) {
						next = timer.DueAt
					}
				}
				if next.After(*st.Deadline) {
					t.Fatalf("%s waits until %s, and the next timer fires at %s", st.Name, st.Deadline, next)
				}
			}
		}
	})
}

func TestReactionsAreRepeatable(t *testing.T) {
	for range 3 {
		s := saga.New(definition())
		first, err := s.React(saga.State{ID: "s"}, saga.Start{Event: begun{"1"}, Subject: "x"}, saga.Env{Now: time.Unix(1, 0)})
		require.NoError(t, err)
		again, err := s.React(saga.State{ID: "s"}, saga.Start{Event: begun{"1"}, Subject: "x"}, saga.Env{Now: time.Unix(1, 0)})
		require.NoError(t, err)
		require.Equal(t, first, again)
	}
}

// For any sequence of answers (repeated, late or reordered), timers and cancellations: the fold of the events is the state; an ended saga
// stays ended; nothing is compensated after the pivot; and from every state, answers alone lead to an end.
func TestEveryWayEnds(t *testing.T) {
	s := saga.New(withFallback())
	rapid.Check(t, func(t *rapid.T) {
		run := sagatest.Run{Saga: s, State: saga.State{ID: "s"}, Now: time.Unix(0, 0)}
		open := rapid.Bool().Draw(t, "breaker open")
		run.Open = func(c cqrs.Keyed) bool { return open && strings.HasPrefix(c.Key(), "a ") }
		var history []cqrs.Event
		var fired []saga.Timeout
		pivoted := false
		feed := func(input any) {
			before := run.State.Status
			reaction, err := run.Feed(input)
			if err != nil {
				return
			}
			for _, f := range reaction.Events {
				history = append(history, cqrs.Event{Body: f, Meta: cqrs.Meta{Time: run.Now}})
			}
			for _, timer := range reaction.Timers {
				fired = append(fired, timer.Timeout)
			}
			for _, c := range reaction.Commands {
				if pivoted && c.Branch == cqrs.BranchCompensation {
					t.Fatalf("%s is undone after the pivot", c.Step)
				}
			}
			if before.Ended() && run.State.Status != before {
				t.Fatalf("%s after %s", run.State.Status, before)
			}
			if b := run.State.Step("do b"); b != nil && b.Status == saga.StepStatusCompleted {
				pivoted = true
			}
		}
		feed(begun{"1"})
		answers := []any{did{}, didB{}, didC{}, refused{"no"}, refused{"full"}, undone{}, ended{}, saga.Refused{Reason: "no"}, saga.Failed{Reason: "no"}, saga.NothingToCompensate{}}
		for range rapid.IntRange(0, 30).Draw(t, "inputs") {
			answer := rapid.SampledFrom(answers).Draw(t, "answer")
			switch rapid.SampledFrom([]string{"answer", "late", "timer", "cancel", "person"}).Draw(t, "kind") {
			case "answer":
				feed(answer)
			case "late":
				c := rapid.SampledFrom(run.Sent).Draw(t, "command")
				feed(sagatest.Late{Event: answer, Step: c.Step, Branch: c.Branch})
			case "timer":
				feed(rapid.SampledFrom(fired).Draw(t, "timer"))
			case "cancel":
				feed(saga.Cancel{Reason: "by hand"})
			case "person":
				feed(rapid.SampledFrom([]any{saga.Retry{}, saga.Skip{}, saga.Resolve{}}).Draw(t, "decision"))
			}
		}
		for i := 0; !run.State.Status.Ended(); i++ {
			if i > 20 {
				t.Fatalf("no end: %+v", run.State)
			}
			feed(map[string]any{"do a/do": did{}, "do a/undo": undone{}, "do a2/do": did{}, "do a2/undo": undone{}, "do b/do": didB{}, "do c/do": didC{}, "give up/do": ended{}}[run.Sent[len(run.Sent)-1].Step+"/"+string(run.Sent[len(run.Sent)-1].Branch)])
		}
		folded := saga.Rebuild("s", history)
		require.Equal(t, run.State, folded)
	})
}

func TestDiagramShowsEveryWay(t *testing.T) {
	diagram := saga.New(definition()).Diagram()
	for _, want := range []string{
		"stateDiagram-v2", "[*] --> do_a", `state "do b (pivot)" as do_b`, `state "undo: do a" as undo_do_a`, "do_a --> give_up: saga_test.refused",
		"do_a --> undo_do_a: no answer in 1s, or cancelled", "undo_do_a --> give_up: saga_test.undone", "do_c --> [*]", "give_up --> [*]: saga_test.ended",
	} {
		require.Contains(t, diagram, want)
	}
	require.Equal(t, 12, strings.Count(diagram, "-->"), diagram)
}

// A participant that refuses without an event does not remember the refusal, so it may accept the next attempt at the pivot, which was sent before
// the refusal of the first attempt arrived. If that refusal compensated the saga, the effect of the pivot would remain without the steps before it.
func TestRefusalOfAnEarlierAttemptAtThePivot(t *testing.T) {
	theSaga, no := sagatest.For(definition()), saga.Refused{Reason: "not now"}
	run := sagatest.Run{Saga: saga.New(definition()), State: saga.State{ID: "s"}}
	for _, input := range []any{begun{"1"}, did{}, sagatest.TimeOut{}} {
		_, err := run.Feed(input)
		require.NoError(t, err)
	}
	first, second := run.Sent[1], run.Sent[2]
	reaction, err := run.Feed(saga.Answer{Event: no, Step: first.Step, Branch: first.Branch, CommandID: first.ID})
	require.NoError(t, err)
	require.Empty(t, reaction.Commands)
	require.Equal(t, saga.StatusRunning, run.State.Status)
	_, err = run.Feed(saga.Answer{Event: no, Step: second.Step, Branch: second.Branch, CommandID: second.ID})
	require.NoError(t, err)
	require.Equal(t, saga.StatusCompensating, run.State.Status)
	t.Run("a person had it sent again, and the attempt before has not expired", theSaga.
		Given(begun{"1"}, did{}, saga.Failed{Reason: "x"}, saga.Retry{By: "ada"}).When(no).Ends(saga.StatusStuck))
	t.Run("it has expired when the time is up", theSaga.
		Given(begun{"1"}, did{}, saga.Failed{Reason: "x"}, saga.Retry{By: "ada"}, no, sagatest.TimeOut{}).When(no).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("the only attempt", theSaga.Given(begun{"1"}, did{}).When(no).Then(ask{"undo a 1!"}))
}
