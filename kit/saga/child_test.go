package saga_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type hotel struct{ City string }

// stay is a saga that another one starts.
func stay() saga.Definition[data] {
	d := definition()
	d.Name, d.Start = "stay", saga.ByParent(func(d *data, e hotel) { d.ID = e.City })
	d.Steps = d.Steps[:1]
	return d
}

// withChild is the definition with a child before the pivot.
func withChild() saga.Definition[data] {
	d := definition()
	d.Steps = []saga.Step[data]{d.Steps[0], {
		Name: "book hotel", Timeout: time.Hour,
		Child: saga.ChildOf(stay(), func(d data, _ int) hotel { return hotel{"city " + d.ID} }, func(d *data, child data) { d.Seen += child.ID }),
	}, d.Steps[1], d.Steps[2]}
	return d
}

func TestChild(t *testing.T) {
	require.NoError(t, withChild().Check())
	theSaga, timeOut, cancel := sagatest.For(withChild()), sagatest.TimeOut{}, saga.Cancel{Reason: "r"}
	starts, undo := sagatest.ChildStarted{Definition: "stay", Event: hotel{"city 1"}}, sagatest.ChildCompensated{Definition: "stay"}
	completes := sagatest.ChildCompletes{Step: "book hotel", Data: data{ID: "h"}}
	compensated := sagatest.ChildIsCompensated{Step: "book hotel", Reason: "full"}
	given := func(more ...any) sagatest.Scenario {
		return theSaga.Given(append([]any{begun{"1"}, did{}}, more...)...)
	}
	t.Run("started", theSaga.Given(begun{"1"}).When(did{}).Then(starts))
	t.Run("completed", given().When(completes).Then(ask{"b 1!h"}))
	t.Run("refused", given().When(compensated).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("in doubt", given().When(timeOut).Leaves(saga.StatusCompensating, undo))
	t.Run("compensated", given(timeOut).When(compensated).Then(ask{"undo a 1!"}))
	t.Run("completed after that: its compensation is on the way", given(timeOut).When(completes).Leaves(saga.StatusCompensating))
	t.Run("compensated after it was completed", given(completes).When(refused{"no"}).Leaves(saga.StatusRunning))
	t.Run("cancelled", given().When(cancel).Leaves(saga.StatusCompensating, undo))
	t.Run("the one of another step", given().When(sagatest.ChildIsCompensated{Step: "other"}).Ends(saga.StatusRunning))
	t.Run("of a saga that has ended", given(compensated, undone{}, ended{}).When(completes).Ends(saga.StatusCompensated))

	d := withChild()
	d.Steps[1].Fallback = detour().Steps[1].Parallel[1].Fallback
	d.Steps[1].Fallback.WhenRefused = []string{"full"}
	withFallback := sagatest.For(d)
	t.Run("refused: the alternative", withFallback.Given(begun{"1"}, did{}).When(compensated).Leaves(saga.StatusRunning, ask{"tent 1!"}))
	t.Run("in doubt: compensated first", withFallback.Given(begun{"1"}, did{}, timeOut).When(compensated).Leaves(saga.StatusRunning, ask{"tent 1!"}))
}

// A refused child has ended, so a retry of the step starts a new child.
func TestChildAfterThePivot(t *testing.T) {
	d := withChild()
	d.Steps[1], d.Steps[2] = d.Steps[2], d.Steps[1]
	d.Steps[2].Retriable = true
	require.NoError(t, d.Check())
	theSaga := sagatest.For(d)
	starts := sagatest.ChildStarted{Definition: "stay", Event: hotel{"city 1"}}
	compensated := sagatest.ChildIsCompensated{Step: "book hotel", Reason: "full"}
	t.Run("no answer: asked again, the same one", theSaga.Given(begun{"1"}, did{}, didB{}).When(sagatest.TimeOut{}).Then(starts))
	t.Run("refused: stuck", theSaga.Given(begun{"1"}, did{}, didB{}).When(compensated).Leaves(saga.StatusStuck))
	t.Run("told again", theSaga.Given(begun{"1"}, did{}, didB{}, compensated).When(compensated).Leaves(saga.StatusStuck))

	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Now()}
	feed := func(in any) saga.Reaction {
		r, err := run.Feed(in)
		require.NoError(t, err)
		return r
	}
	feed(begun{"1"})
	feed(did{})
	first := feed(didB{}).Commands[0].Body.(saga.StartChild)
	require.Equal(t, first.SagaID, feed(sagatest.TimeOut{}).Commands[0].Body.(saga.StartChild).SagaID)
	feed(compensated)
	second := feed(saga.Retry{}).Commands[0].Body.(saga.StartChild)
	require.NotEqual(t, first.SagaID, second.SagaID)
	late := saga.ChildEnded{EndChild: saga.EndChild{Step: "book hotel", ChildID: first.SagaID, Status: saga.StatusCompleted}}
	require.Empty(t, feed(late).Events, "that of the first")
	feed(sagatest.ChildCompletes{Step: "book hotel"})
	require.Equal(t, saga.StepStatusCompleted, run.State.Step("book hotel").Status)
}

// A completed child is compensated, beginning with its last step. A child whose pivot was sent is not compensated.
func TestCompensateAChild(t *testing.T) {
	d := definition()
	d.Steps = append(d.Steps[:1], stay().Steps[0])
	d.Steps[1].Name = "do z"
	theSaga, undo := sagatest.For(d), saga.Compensate{Reason: "r"}
	t.Run("running", theSaga.Given(begun{"1"}).When(undo).Leaves(saga.StatusCompensating, ask{"undo a 1"}))
	t.Run("completed", theSaga.Given(begun{"1"}, did{}, did{}).When(undo).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("its answer is waited for anew", theSaga.Given(begun{"1"}, did{}, did{}, undo).When(sagatest.TimeOut{}).Then(ask{"undo a 1!"}))
	t.Run("and goes on", theSaga.Given(begun{"1"}, did{}, did{}, undo, undone{}, undone{}).When(ended{}).Ends(saga.StatusCompensated))
	t.Run("twice", theSaga.Given(begun{"1"}, did{}, did{}, undo).When(undo).Leaves(saga.StatusCompensating))
	t.Run("beyond its pivot", sagatest.For(definition()).Given(begun{"1"}, did{}).When(undo).Refused(saga.ErrTooLate))
}

func TestChildIsChecked(t *testing.T) {
	for want, change := range map[string]func(*saga.Step[data]){
		"needs a time": func(s *saga.Step[data]) { s.Timeout = 0 },
		"has no commands and no events of its own": func(s *saga.Step[data]) { s.Action = asks("x") },
		"which does not start it": func(s *saga.Step[data]) {
			s.Child = saga.ChildOf[data](stay(), func(data, int) begun { return begun{} }, nil)
		},
		"which has a pivot": func(s *saga.Step[data]) {
			s.Child = saga.ChildOf[data](definition(), func(data, int) begun { return begun{} }, nil)
		},
		"needs several events to start": func(s *saga.Step[data]) {
			s.Child = saga.ChildOf[data](whenAll(), func(data, int) paid { return paid{} }, nil)
		},
		"starts a saga with faults": func(s *saga.Step[data]) {
			s.Child = saga.ChildOf[data](saga.Definition[data]{Name: "bad", Start: saga.Event[begun, data]()}, func(data, int) begun { return begun{} }, nil)
		},
		"is its own child: test starts stay starts test": func(s *saga.Step[data]) {
			inner := stay()
			inner.Steps = append(inner.Steps, saga.Step[data]{Name: "again", Timeout: time.Second, Child: saga.ChildOf[data](definition(), func(data, int) begun { return begun{} }, nil)})
			s.Child = saga.ChildOf[data](inner, func(data, int) hotel { return hotel{} }, nil)
		},
	} {
		d := withChild()
		change(&d.Steps[1])
		require.ErrorContains(t, d.Check(), want)
	}
}

// A child gets the reason of its compensation when a fallback of its parent replaces it.
func TestChildThatAFallbackStandsInForKnowsWhy(t *testing.T) {
	d := withChild()
	d.Steps[1].Fallback = detour().Steps[1].Parallel[1].Fallback
	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Now()}
	var last saga.Reaction
	for _, in := range []any{begun{"1"}, did{}, sagatest.TimeOut{}, sagatest.TimeOut{}} {
		var err error
		last, err = run.Feed(in)
		require.NoError(t, err)
		if len(last.Commands) > 0 {
			if c, ok := last.Commands[0].Body.(saga.CompensateChild); ok {
				require.Equal(t, "book hotel: no answer in time", c.Reason)
				return
			}
		}
	}
	t.Fatal("it is not compensated")
}
