package saga_test

import (
	"encoding/json"
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

type (
	seated   struct{}
	unseated struct{}
	roomed   struct{}
	unroomed struct{}
	full     struct{}
)

// parallel is a definition with a stage of two steps before the pivot, and a stage of two after it.
func parallel() saga.Definition[data] {
	d := definition()
	step := func(name string) saga.Step[data] {
		return saga.Step[data]{Name: "hold " + name, Action: asks(name), Compensation: asks("undo " + name), Timeout: time.Second}
	}
	seat, room := step("seat"), step("room")
	seat.Completed, seat.Compensated = saga.On(func(d *data, _ seated) { d.Seen += "s" }), saga.Event[unseated, data]()
	room.Completed, room.Compensated = saga.On(func(d *data, _ roomed) { d.Seen += "r" }), saga.Event[unroomed, data]()
	room.Refused = []saga.Refusal{saga.RefusedBy(func(full) string { return "full" })}
	tell := func(name string) saga.Step[data] {
		return saga.Step[data]{Name: "tell " + name, Action: asks(name), Completed: saga.Event[didC, data](), Timeout: time.Second, Retriable: true}
	}
	d.Steps = []saga.Step[data]{
		d.Steps[0], {Parallel: []saga.Step[data]{seat, room}}, d.Steps[1], {Parallel: []saga.Step[data]{tell("ada"), tell("bob")}}, d.Steps[2],
	}
	return d
}

// detour is the definition whose room has a fallback.
func detour() saga.Definition[data] {
	d := parallel()
	d.Steps[1].Parallel[1].Fallback = &saga.Fallback[data]{
		Name: "hold tent", Action: asks("tent"), Completed: saga.Event[roomed, data](), Compensation: asks("undo tent"), Compensated: saga.Event[unroomed, data](),
		Timeout: time.Second, WhenOpen: true, WhenTimedOut: true, WhenRefused: []string{"full"},
	}
	return d
}

func TestParallelSteps(t *testing.T) {
	theSaga, timeOut, cancel := sagatest.For(parallel()), sagatest.TimeOut{}, saga.Cancel{Reason: "by hand"}
	stage := []any{begun{"1"}, did{}}
	given := func(more ...any) sagatest.Scenario { return theSaga.Given(append(slices.Clip(stage), more...)...) }

	t.Run("the commands of a stage leave together", theSaga.Given(begun{"1"}).When(did{}).Then(ask{"seat 1!"}, ask{"room 1!"}))
	t.Run("one is completed: the other one is waited for", given().When(roomed{}).Leaves(saga.StatusRunning))
	t.Run("all are completed: on", given(roomed{}).When(seated{}).Then(ask{"b 1!rs"}))
	t.Run("in either order", given(seated{}).When(roomed{}).Then(ask{"b 1!sr"}))
	t.Run("an answer without an event names its step", given(seated{}).When(sagatest.Reply{Step: "hold room", Event: saga.Processed{}}).Then(ask{"b 1!s"}))

	t.Run("refused: the one in flight is in doubt", given().When(full{}).Leaves(saga.StatusCompensating, ask{"undo seat 1!"}))
	t.Run("refused: the completed one is undone", given(seated{}).When(full{}).Leaves(saga.StatusCompensating, ask{"undo seat 1!s"}))
	t.Run("then the stage before", given(seated{}, full{}).When(unseated{}).Then(ask{"undo a 1!s"}))
	t.Run("given up: it is in doubt too", given().When(sagatest.Reply{Step: "hold room", Event: saga.Failed{Reason: "panic"}}).
		Then(ask{"undo room 1!"}, ask{"undo seat 1!"}))
	t.Run("timed out: both are undone", given().When(timeOut).Leaves(saga.StatusCompensating, ask{"undo room 1!"}, ask{"undo seat 1!"}))
	t.Run("the stage before waits for both", given(timeOut).When(unroomed{}).Leaves(saga.StatusCompensating))
	t.Run("and comes when both are undone", given(timeOut, unroomed{}).When(unseated{}).Then(ask{"undo a 1!"}))
	t.Run("the late answer of the one that was in flight changes nothing", given(full{}).
		When(sagatest.Late{Event: seated{}, Step: "hold seat", Branch: cqrs.BranchAction}).Leaves(saga.StatusCompensating))
	t.Run("a refusal after a refusal changes nothing", given(sagatest.Reply{Step: "hold seat", Event: saga.Refused{Reason: "no"}}).
		When(sagatest.Late{Event: full{}, Step: "hold room", Branch: cqrs.BranchAction}).Leaves(saga.StatusCompensating))
	t.Run("cancelled in the stage", given(seated{}).When(cancel).Leaves(saga.StatusCompensating, ask{"undo room 1!s"}, ask{"undo seat 1!s"}))
	t.Run("refused behind the stage", given(seated{}, roomed{}).When(saga.Refused{Reason: "no"}).Then(ask{"undo room 1!sr"}, ask{"undo seat 1!sr"}))

	after := []any{begun{"1"}, did{}, seated{}, roomed{}}
	t.Run("after the pivot too", theSaga.Given(after...).When(didB{}).Then(ask{"ada 1!sr"}, ask{"bob 1!sr"}))
	after = append(after, didB{})
	t.Run("each is asked again apart", theSaga.Given(append(slices.Clip(after), didC{})...).When(timeOut).Then(ask{"ada 1!sr"}))
	t.Run("completed: the last step", theSaga.Given(append(slices.Clip(after), didC{})...).When(didC{}).Then(ask{"c 1!sr"}))
}

func TestFallbackInAStage(t *testing.T) {
	theSaga, timeOut := sagatest.For(detour()), sagatest.TimeOut{}
	given := func(more ...any) sagatest.Scenario {
		return theSaga.Given(append([]any{begun{"1"}, did{}}, more...)...)
	}
	open := theSaga.While(func(c cqrs.Keyed) bool { return strings.HasPrefix(c.Key(), "room ") })
	t.Run("its breaker is open", open.Given(begun{"1"}).When(did{}).Leaves(saga.StatusRunning, ask{"seat 1!"}, ask{"tent 1!"}))
	t.Run("refused: the other one goes on", given().When(full{}).Leaves(saga.StatusRunning, ask{"tent 1!"}))
	t.Run("both ways are waited for", given(full{}).When(seated{}).Leaves(saga.StatusRunning))
	t.Run("completed by the fallback", given(full{}, seated{}).When(roomed{}).Then(ask{"b 1!s"}))
	t.Run("the other one times out while the first way is undone", given(sagatest.Reply{Step: "hold room", Event: saga.Failed{Reason: "x"}}).When(timeOut).
		Leaves(saga.StatusCompensating, ask{"undo seat 1!"}))
	t.Run("then no fallback is taken", given(sagatest.Reply{Step: "hold room", Event: saga.Failed{Reason: "x"}}, timeOut, unseated{}).When(unroomed{}).
		Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("undone with the stage", given(full{}, roomed{}).When(sagatest.Reply{Step: "hold seat", Event: saga.Refused{Reason: "no"}}).
		Leaves(saga.StatusCompensating, ask{"undo tent 1!"}))
}

func TestAPersonHelpsEachBranchApart(t *testing.T) {
	theSaga, no := sagatest.For(parallel()), saga.Refused{Reason: "no"}
	adaNo, bobNo := sagatest.Reply{Step: "tell ada", Event: no}, sagatest.Reply{Step: "tell bob", Event: no}
	after := []any{begun{"1"}, did{}, seated{}, roomed{}, didB{}}
	given := func(more ...any) sagatest.Scenario { return theSaga.Given(append(slices.Clip(after), more...)...) }
	back := func(more ...any) sagatest.Scenario {
		return theSaga.Given(append([]any{begun{"1"}, did{}, seated{}, full{}}, more...)...)
	}
	skip := func(step string) saga.Skip { return saga.Skip{By: "ada", Reason: "r", Step: step} }

	t.Run("one is stuck: no name is needed", given(adaNo).When(saga.Retry{By: "ada"}).Leaves(saga.StatusStuck, ask{"ada 1!sr"}))
	t.Run("the other one's answer does not free it", given(adaNo).When(sagatest.Reply{Step: "tell bob", Event: didC{}}).Leaves(saga.StatusStuck))
	t.Run("two are stuck: a name is needed", given(adaNo, bobNo).When(saga.Retry{By: "ada"}).Refused(saga.ErrSeveralStuck))
	t.Run("retried by name", given(adaNo, bobNo).When(saga.Retry{By: "ada", Step: "tell bob"}).Leaves(saga.StatusStuck, ask{"bob 1!sr"}))
	t.Run("not that one", given(adaNo).When(saga.Retry{By: "ada", Step: "tell bob"}).Refused(saga.ErrNotStuck))
	t.Run("skipped, the other one is still stuck", given(adaNo, bobNo).When(skip("tell ada")).Leaves(saga.StatusStuck))
	t.Run("both are skipped", given(adaNo, bobNo, skip("tell ada")).When(skip("")).Leaves(saga.StatusRunning, ask{"c 1!sr"}))
	t.Run("resolved: all that is left", given(adaNo).When(saga.Resolve{By: "ada", Reason: "r"}).Leaves(saga.StatusRunning, ask{"c 1!sr"}))
	t.Run("backwards: skipped", back(no).When(skip("")).Leaves(saga.StatusCompensating, ask{"undo a 1!s"}))
	t.Run("backwards: resolved", back(no).When(saga.Resolve{By: "ada", Reason: "r"}).Leaves(saga.StatusCompensating, ask{"give up: full"}))
}

// A stuck branch stays reported as stuck when another branch is refused.
func TestStuckBranchStaysStuckOnTheWayBack(t *testing.T) {
	theSaga := sagatest.For(detour())
	given := []any{
		begun{"1"}, did{}, sagatest.Reply{Step: "hold room", Event: saga.Failed{Reason: "x"}}, // its compensation is sent, before the fallback
		sagatest.Reply{Step: "hold room", Event: saga.Refused{Reason: "locked"}}, // the compensation is refused: stuck
	}
	t.Run("stuck", theSaga.Given(given[:3]...).When(given[3]).Ends(saga.StatusStuck))
	given = append(given, sagatest.Reply{Step: "hold seat", Event: saga.Refused{Reason: "no"}})
	t.Run("stuck still", theSaga.Given(given[:4]...).When(given[4]).Ends(saga.StatusStuck))
	t.Run("freed: the way back goes on", theSaga.Given(given...).When(unroomed{}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
}

func TestCheckOfStages(t *testing.T) {
	require.NoError(t, parallel().Check())
	require.NoError(t, detour().Check())
	for want, spoil := range map[string]func(*saga.Definition[data]){
		`stage 2 (hold seat, hold room) has fields beside`: func(d *saga.Definition[data]) { d.Steps[1].Timeout = 1 },
		`stage 2 (hold seat) needs two`:                    func(d *saga.Definition[data]) { d.Steps[1].Parallel = d.Steps[1].Parallel[:1] },
		`stage 2 () needs two`:                             func(d *saga.Definition[data]) { d.Steps[1].Parallel = []saga.Step[data]{} },
		`stage 2 has a stage inside`:                       func(d *saga.Definition[data]) { d.Steps[1].Parallel[0] = d.Steps[3] },
		`"hold seat" is the pivot: it stands alone`:        func(d *saga.Definition[data]) { d.Steps[1].Parallel[0].Pivot = true },
		`"hold room" comes before the pivot: it needs`:     func(d *saga.Definition[data]) { d.Steps[1].Parallel[1].Compensation = nil },
		`"tell bob" comes after the pivot: it must be`:     func(d *saga.Definition[data]) { d.Steps[3].Parallel[1].Retriable = false },
		`step 2 needs a name of its own, has "do a"`:       func(d *saga.Definition[data]) { d.Steps[1].Parallel[1].Name = "do a" },
	} {
		d := parallel()
		d.Steps[1].Parallel = slices.Clone(d.Steps[1].Parallel)
		d.Steps[3].Parallel = slices.Clone(d.Steps[3].Parallel)
		spoil(&d)
		require.ErrorContains(t, saga.New(d).Check(), want)
	}
}

func TestDiagramOfAStage(t *testing.T) {
	diagram := saga.New(detour()).Diagram()
	for _, want := range []string{
		"do_a --> fork_2: saga_test.did", "fork_2 --> hold_seat", "fork_2 --> hold_room", "hold_seat --> join_2: saga_test.seated",
		"join_2 --> do_b: all completed", "hold_room --> undo_fork_2: saga_test.full", "undo_fork_2 --> undo_hold_room", "undo_fork_2 --> undo_hold_tent",
		"undo_hold_seat --> undo_join_2: saga_test.unseated", "undo_join_2 --> undo_do_a: all undone", "do_b --> fork_4", "join_4 --> do_c: all completed",
		"hold_room --> hold_tent: refused, full",
	} {
		require.Contains(t, diagram, want)
	}
	require.NotContains(t, diagram, "fork_2 --> hold_tent")
}

// The commands of a stage are recorded as one event, which a program that does not know stages refuses to read.
func TestEventsOfAStage(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(parallel()), State: saga.State{ID: "s"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var names []string
	var history []cqrs.Event
	for _, input := range []any{begun{"1"}, did{}, seated{}, full{}, unseated{}, undone{}, ended{}} {
		reaction, err := run.Feed(input)
		require.NoError(t, err)
		for _, f := range reaction.Events {
			kind, payload, err := saga.HistoryTypes.Encode(f)
			require.NoError(t, err)
			names = append(names, kind.Name)
			body, err := saga.HistoryTypes.Decode(kind.Name, kind.Schema, payload)
			require.NoError(t, err)
			history = append(history, cqrs.Event{Body: body, Meta: cqrs.Meta{Time: run.Now}})
		}
	}
	require.Equal(t, []string{
		"saga.started", "saga.step-completed", "saga.commands-sent", "saga.step-completed", "saga.step-refused", "saga.step-asked",
		"saga.step-compensated", "saga.step-compensated", "saga.step-completed", "saga.compensated",
	}, names)
	require.JSONEq(t, string(jsonOf(t, run.State)), string(jsonOf(t, saga.Rebuild("s", history))))
	require.Equal(t, []int32{1, 2, 2, 3, 4, 4, 5}, history[0].Body.(saga.Started).Stages)
}

func jsonOf(t require.TestingT, v any) []byte {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return text
}

// A stage needs one timer, which fires at the first deadline.
func TestOneTimerIsEnoughForAStage(t *testing.T) {
	d := parallel()
	d.Steps[1].Parallel[1].Timeout = 500 * time.Millisecond
	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "s"}}
	_, err := run.Feed(begun{"1"})
	require.NoError(t, err)
	reaction, err := run.Feed(did{})
	require.NoError(t, err)
	require.Len(t, reaction.Timers, 1)
	require.Equal(t, "hold room", reaction.Timers[0].Timeout.Step)
	require.Len(t, reaction.CancelledTimers, 1, "that of the first step fires later")
}

// This is TestATimerIsAlwaysDue for stages: whichever steps are in flight, a timer fires by every deadline.
func TestATimerIsAlwaysDueInStages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := detour()
		within := func() time.Duration {
			return time.Duration(rapid.IntRange(100, 3000).Draw(t, "within, ms")) * time.Millisecond
		}
		for i := range d.Steps {
			if d.Steps[i].Parallel == nil {
				d.Steps[i].Timeout = within()
				continue
			}
			d.Steps[i].Parallel = slices.Clone(d.Steps[i].Parallel)
			for n := range d.Steps[i].Parallel {
				d.Steps[i].Parallel[n].Timeout = within()
			}
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
			for _, c := range reaction.Commands {
				for _, other := range reaction.Commands {
					if c.Step == other.Step && c.ID != other.ID {
						t.Fatalf("%s is asked twice at once", c.Step)
					}
				}
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
		right := map[string]any{
			"do a/do": did{}, "do b/do": didB{}, "do c/do": didC{}, "hold seat/do": seated{}, "hold room/do": roomed{}, "hold tent/do": roomed{},
			"tell ada/do": didC{}, "tell bob/do": didC{}, "give up/do": ended{}, "do a/undo": undone{}, "hold seat/undo": unseated{},
			"hold room/undo": unroomed{}, "hold tent/undo": unroomed{},
		}
		other := []any{refused{"no"}, full{}, saga.Failed{Reason: "no"}, saga.Refused{Reason: "no"}, saga.Processed{}, saga.NothingToCompensate{}}
		for range rapid.IntRange(1, 60).Draw(t, "inputs") {
			switch rapid.SampledFrom([]string{"answer", "answer", "answer", "time", "timer", "cancel", "person"}).Draw(t, "kind") {
			case "answer":
				c := rapid.SampledFrom(sent).Draw(t, "command")
				event := right[c.Step+"/"+string(c.Branch)]
				if rapid.IntRange(0, 3).Draw(t, "another answer") == 0 {
					event = rapid.SampledFrom(other).Draw(t, "answer")
				}
				feed(saga.Answer{Event: event, Step: c.Step, Branch: c.Branch, CommandID: c.ID})
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
				state := saga.Rebuild("s", history)
				step := ""
				if stuck := state.StuckSteps(); len(stuck) > 0 {
					step = rapid.SampledFrom(stuck).Draw(t, "step")
				}
				feed(rapid.SampledFrom([]saga.Input{saga.Retry{Step: step}, saga.Skip{Step: step}, saga.Resolve{Step: step}}).Draw(t, "decision"))
			}
			state := saga.Rebuild("s", history)
			next := time.Unix(1<<40, 0)
			for _, timer := range pending {
				if state.Status.Ended() && !fired && timer.DueAt.After(now) {
					t.Fatalf("it has ended, and a timer is left: %+v", timer)
				}
				if timer.DueAt.Before(next) {
					next = timer.DueAt
				}
			}
			for _, st := range state.Steps {
				if st.InFlight() && next.After(*st.Deadline) {
					t.Fatalf("%s waits until %s, and the next timer fires at %s", st.Name, st.Deadline, next)
				}
				if state.Status == saga.StatusStuck != (len(state.StuckSteps()) > 0) {
					t.Fatalf("%s: %v are stuck", state.Status, state.StuckSteps())
				}
			}
			inFlight := slices.ContainsFunc(state.Steps, func(st saga.StepState) bool { return st.InFlight() })
			if inFlight == state.Status.Ended() {
				t.Fatal(fmt.Sprintf("%s, in flight: %v, %+v", state.Status, inFlight, state.Steps))
			}
		}
	})
}
