package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/sagas/saga"
	"github.com/millrace/millrace/sagas/sagatest"
)

// A saga of one's own, without the example: three steps, the second of them the pivot.
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

func asks(what string) func(data) app.Keyed {
	return func(d data) app.Keyed { return ask{what + " " + d.ID + d.Seen} }
}

func definition() saga.Definition[data] {
	return saga.Definition[data]{
		Name: "test", Version: 1, StuckAfter: 3,
		Start: saga.When(func(d *data, e begun) { d.ID = e.ID }),
		Steps: []saga.Step[data]{
			{
				Name: "do a", Do: asks("a"), Completed: saga.When(func(d *data, e did) { d.Seen = "!" }), Undo: asks("undo a"),
				Undone: saga.Event[undone, data](), Within: time.Second, Refused: []saga.Refusal{saga.Because(func(e refused) string { return e.Why })},
			},
			{Name: "do b", Do: asks("b"), Completed: saga.Event[didB, data](), Within: time.Second, Pivot: true},
			{Name: "do c", Do: asks("c"), Completed: saga.Event[didC, data](), Within: time.Second, Retriable: true},
		},
		Abort: saga.Abort[data]{
			Name: "give up", Do: func(d data, reason string) app.Keyed { return ask{"give up: " + reason} },
			Completed: saga.Event[ended, data](), Within: time.Second,
		},
	}
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
		"has no event that starts it":       func(d *saga.Definition[data]) { d.Start = saga.On[data]{} },
		"has no steps":                      func(d *saga.Definition[data]) { d.Steps = nil },
		"needs an Abort":                    func(d *saga.Definition[data]) { d.Abort.Do = nil },
		`a name of its own, has "do a"`:     func(d *saga.Definition[data]) { d.Steps[1].Name = "do a" },
		`a name of its own, has "give up"`:  func(d *saga.Definition[data]) { d.Steps[1].Name = "give up" },
		"needs a command, a completing":     func(d *saga.Definition[data]) { d.Steps[0].Within = 0 },
		"are both the pivot":                func(d *saga.Definition[data]) { d.Steps[2].Pivot = true },
		`"do a" comes before the pivot: it`: func(d *saga.Definition[data]) { d.Steps[0].Undo = nil },
		`"do c" comes after the pivot: it`:  func(d *saga.Definition[data]) { d.Steps[2].Retriable = false },
		`"do a" is retriable, but stands`:   func(d *saga.Definition[data]) { d.Steps[0].Retriable = true },
	} {
		d := definition()
		spoil(&d)
		require.ErrorContains(t, saga.New(d).Check(), want)
	}
	d := definition()
	d.Version, d.Abort.Do = 0, nil
	require.ErrorContains(t, d.Check(), "needs an Abort", "all faults at once")
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
		require.Equal(t, attempt > 3, run.State.Status == saga.Stuck, "attempt %d", attempt)
	}
	for i, pause := range pauses {
		middle := min(time.Second<<(i+1), 5*time.Minute)
		require.InDelta(t, middle.Seconds(), pause.Seconds(), 0.2*middle.Seconds()+0.001, "attempt %d", i+2)
	}
	feed(didB{})
	require.Equal(t, saga.Running, run.State.Status, "the answer frees it")
	require.Empty(t, run.State.Step("do b").Reason)
}

func TestAPersonHelpsAStuckSaga(t *testing.T) {
	theSaga, no, timeOut := sagatest.For(definition()), saga.Refused{Reason: "no"}, sagatest.TimeOut{}
	back := []any{begun{"1"}, timeOut, no}                       // "do a" cannot be undone
	pivot := []any{begun{"1"}, did{}, timeOut, timeOut, timeOut} // "do b" does not answer
	last := []any{begun{"1"}, did{}, didB{}, no}                 // "do c" is refused
	abort := []any{begun{"1"}, refused{"why"}, no}               // "give up" is refused
	skip, resolve := saga.Skip{By: "ada", Reason: "r"}, saga.Resolve{By: "ada", Reason: "r"}

	t.Run("backwards: retried", theSaga.Given(back...).When(saga.Retry{By: "ada"}).Then(ask{"undo a 1"}))
	t.Run("backwards: retried, then answered", theSaga.Given(append(back, saga.Retry{By: "ada"})...).When(undone{}).Leaves(saga.Compensating, ask{"give up: do a: no answer in time"}))
	t.Run("backwards: skipped", theSaga.Given(back...).When(skip).Leaves(saga.Compensating, ask{"give up: do a: no answer in time"}))
	t.Run("backwards: resolved", theSaga.Given(back...).When(resolve).Leaves(saga.Compensating, ask{"give up: do a: no answer in time"}))
	t.Run("pivot: retried", theSaga.Given(pivot...).When(saga.Retry{By: "ada"}).Then(ask{"b 1!"}))
	t.Run("pivot: skipped", theSaga.Given(pivot...).When(skip).Leaves(saga.Running, ask{"c 1!"}))
	t.Run("pivot: resolved, the subject is told", theSaga.Given(pivot...).When(resolve).Leaves(saga.Running, ask{"c 1!"}))
	t.Run("last: retried", theSaga.Given(last...).When(saga.Retry{By: "ada"}).Then(ask{"c 1!"}))
	t.Run("last: resolved", theSaga.Given(last...).When(resolve).Ends(saga.IsCompleted))
	t.Run("abort: skipped", theSaga.Given(abort...).When(skip).Ends(saga.IsCompensated))
	t.Run("abort: resolved", theSaga.Given(abort...).When(resolve).Ends(saga.IsCompensated))
	t.Run("running: none of it", theSaga.Given(begun{"1"}).When(saga.Retry{By: "ada"}).Refused(saga.ErrNotStuck))
	t.Run("ended: none of it", theSaga.Given(append(last, resolve)...).When(skip).Refused(saga.ErrNotStuck))
}

func TestTimersOfTheAnsweredAreStopped(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(definition()), State: saga.State{ID: "s"}}
	started, err := run.Feed(begun{"1"})
	require.NoError(t, err)
	answered, err := run.Feed(did{})
	require.NoError(t, err)
	require.Equal(t, []string{started.Timers[0].ID}, answered.Stopped)
	for range 3 { // it fires all the same, and more than once
		late, err := run.Feed(started.Timers[0].Timeout)
		require.NoError(t, err)
		require.Empty(t, late.Facts)
	}
}

func TestReactionsAreRepeatable(t *testing.T) {
	for range 3 {
		s := saga.New(definition())
		first, err := s.React(saga.State{ID: "s"}, saga.Start{Event: begun{"1"}, Subject: "x"}, time.Unix(1, 0))
		require.NoError(t, err)
		again, err := s.React(saga.State{ID: "s"}, saga.Start{Event: begun{"1"}, Subject: "x"}, time.Unix(1, 0))
		require.NoError(t, err)
		require.Equal(t, first, again)
	}
}

// Any sequence of answers, repeated, late or reordered, timers and cancellations: the fold of the facts is the state; what has
// ended stays ended; after the pivot nothing is undone; and whatever happened, answers alone lead to an end.
func TestEveryWayEnds(t *testing.T) {
	s := saga.New(definition())
	rapid.Check(t, func(t *rapid.T) {
		run := sagatest.Run{Saga: s, State: saga.State{ID: "s"}, Now: time.Unix(0, 0)}
		var history []app.Event
		var fired []saga.Timeout
		pivoted := false
		feed := func(input any) {
			before := run.State.Status
			reaction, err := run.Feed(input)
			if err != nil {
				return
			}
			for _, f := range reaction.Facts {
				history = append(history, app.Event{Body: f, Meta: app.Meta{Time: run.Now}})
			}
			for _, timer := range reaction.Timers {
				fired = append(fired, timer.Timeout)
			}
			for _, c := range reaction.Commands {
				if pivoted && c.Branch == app.Undo {
					t.Fatalf("%s is undone after the pivot", c.Step)
				}
			}
			if before.Ended() && run.State.Status != before {
				t.Fatalf("%s after %s", run.State.Status, before)
			}
			if b := run.State.Step("do b"); b != nil && b.Status == saga.StepDone {
				pivoted = true
			}
		}
		feed(begun{"1"})
		answers := []any{did{}, didB{}, didC{}, refused{"no"}, undone{}, ended{}, saga.Refused{Reason: "no"}, saga.NothingToUndo{}}
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
			feed(map[string]any{"do a/do": did{}, "do a/undo": undone{}, "do b/do": didB{}, "do c/do": didC{}, "give up/do": ended{}}[run.Sent[len(run.Sent)-1].Step+"/"+string(run.Sent[len(run.Sent)-1].Branch)])
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
