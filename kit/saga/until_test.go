package saga_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type looked struct{ Ready bool }

// polling is the definition with a step that polls an external service every hour, at most three times.
func polling() saga.Definition[data] {
	d := definition()
	poll := saga.Step[data]{
		Name: "look there", Action: asks("look"), Timeout: time.Second,
		Completed: saga.On(func(d *data, e looked) {
			if e.Ready {
				d.Seen += "r"
			}
		}),
		Refused: []saga.Refusal{saga.RefusedBy(func(full) string { return "full" })},
		Until:   &saga.Until[data]{Holds: func(d data) bool { return d.Seen == "!r" }, Every: time.Hour, Attempts: 3},
	}
	d.Steps = []saga.Step[data]{d.Steps[0], poll, d.Steps[1], d.Steps[2]}
	return d
}

func TestUntil(t *testing.T) {
	require.NoError(t, polling().Check())
	theSaga, timeOut, notYet := sagatest.For(polling()), sagatest.TimeOut{}, looked{}
	given := func(more ...any) sagatest.Scenario {
		return theSaga.Given(append([]any{begun{"1"}, did{}}, more...)...)
	}
	t.Run("ready at once", given().When(looked{true}).Then(ask{"b 1!r"}))
	t.Run("not yet: no command now", given().When(notYet).Leaves(saga.StatusRunning))
	t.Run("asked again after the interval", given(notYet).When(timeOut).Then(ask{"look 1!"}))
	t.Run("then ready", given(notYet, timeOut).When(looked{true}).Then(ask{"b 1!r"}))
	t.Run("no answer: asked again", given().When(timeOut).Leaves(saga.StatusRunning, ask{"look 1!"}))
	t.Run("given up: asked again later", given(saga.Failed{Reason: "x"}).When(timeOut).Then(ask{"look 1!"}))
	t.Run("refused: that is all", given().When(full{}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("never ready: refused", given(notYet, timeOut, notYet, timeOut).When(notYet).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("why", given(notYet, timeOut, notYet, timeOut, notYet).When(undone{}).Then(ask{"give up: look there: its condition does not hold after 3 attempts"}))
	t.Run("never answered: refused", given(timeOut, timeOut).When(timeOut).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("cancelled between two commands", given(notYet).When(saga.Cancel{Reason: "r"}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("a late answer completes it", given(timeOut).When(sagatest.Late{Event: looked{true}, Step: "look there", Branch: cqrs.BranchAction}).Then(ask{"b 1!r"}))

	two := polling()
	other := two.Steps[1]
	other.Name, other.Until = "look here", &saga.Until[data]{Holds: other.Until.Holds, Every: time.Hour, Attempts: 1}
	two.Steps[1] = saga.Step[data]{Parallel: []saga.Step[data]{two.Steps[1], other}}
	t.Run("beside another one whose attempts are over", sagatest.For(two).Given(begun{"1"}, did{}).When(timeOut).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))

	d := polling()
	d.Steps[1].Fallback = detour().Steps[1].Parallel[1].Fallback
	t.Run("never ready: the fallback", sagatest.For(d).Given(begun{"1"}, did{}, notYet, timeOut, notYet, timeOut).When(notYet).Leaves(saga.StatusRunning, ask{"tent 1!"}))

	d = polling()
	d.Steps[1].Retriable = true
	d.Steps[1], d.Steps[2] = d.Steps[2], d.Steps[1]
	after := sagatest.For(d)
	all := []any{begun{"1"}, did{}, didB{}, notYet, timeOut, notYet, timeOut}
	t.Run("after the pivot: an operator is asked for", after.Given(all...).When(notYet).Ends(saga.StatusStuck))
	t.Run("and it goes on", after.Given(append(all, notYet)...).When(timeOut).Leaves(saga.StatusStuck, ask{"look 1!"}))
	t.Run("the condition frees it", after.Given(append(all, notYet, timeOut)...).When(looked{true}).Leaves(saga.StatusRunning, ask{"c 1!r"}))

	for want, spoil := range map[string]func(*saga.Step[data]){
		"it needs the condition, a time between":        func(s *saga.Step[data]) { s.Until = &saga.Until[data]{} },
		`"look there" is the pivot: it is not repeated`: func(s *saga.Step[data]) { s.Pivot = true },
		"its command has no effect and its step no":     func(s *saga.Step[data]) { s.Compensation = asks("x") },
		"its name must not contain #":                   func(s *saga.Step[data]) { s.Name = "look #1" },
	} {
		d := polling()
		spoil(&d.Steps[1])
		require.ErrorContains(t, d.Check(), want)
	}
}

// Each repetition has a step name of its own for the participant's barrier, and the timer of an answered command does not repeat it too early.
func TestRepetitionsAreOtherMessages(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(polling()), State: saga.State{ID: "s"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var timers []saga.Timer
	var names []string
	feed := func(input any) saga.Reaction {
		reaction, err := run.Feed(input)
		require.NoError(t, err)
		timers = append(timers, reaction.Timers...)
		for _, c := range reaction.Commands {
			names = append(names, c.MessageStep())
		}
		return reaction
	}
	feed(begun{"1"})
	feed(did{})
	feed(looked{})
	at := *run.State.Step("look there").Deadline
	require.Equal(t, run.Now.Add(time.Hour), at)
	early := feed(saga.Timeout{SagaID: "s", Step: "look there", Branch: cqrs.BranchAction, Attempt: 1})
	require.Empty(t, early.Commands)
	require.Equal(t, at, timers[len(timers)-1].DueAt)
	run.Now = at
	feed(timers[len(timers)-1].Timeout)
	_, err := run.Saga.React(run.State, saga.Answer{Event: looked{true}, Step: "look there#2", Branch: cqrs.BranchAction, CommandID: "c"}, saga.Env{Now: run.Now})
	require.NoError(t, err)
	require.Equal(t, []string{"do a", "look there", "look there#2"}, names)
	require.Contains(t, saga.New(polling()).Diagram(), "look_there --> look_there: asked again every 1h0m0s until its condition holds")
}
