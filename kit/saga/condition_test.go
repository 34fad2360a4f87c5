package saga_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

// conditional is the definition with a stage whose seat is needed only after "do a" was seen; the room and the last step are never needed.
func conditional() saga.Definition[data] {
	d := parallel()
	d.Steps[1].Parallel[0].SkipIf = func(d data) bool { return d.Seen == "" }
	d.Steps[1].Parallel[1].SkipIf = func(data) bool { return true }
	d.Steps[4].SkipIf = func(data) bool { return true }
	return d
}

func TestConditions(t *testing.T) {
	theSaga := sagatest.For(conditional())
	t.Run("one of a stage is skipped", theSaga.Given(begun{"1"}).When(did{}).Then(ask{"seat 1!"}))
	t.Run("the stage is complete without it", theSaga.Given(begun{"1"}, did{}).When(seated{}).Then(ask{"b 1!s"}))
	t.Run("the condition sees the data of that moment", theSaga.Given(begun{"1"}).When(saga.Processed{}).Then(ask{"b 1"}))
	t.Run("what was skipped is not compensated", theSaga.Given(begun{"1"}, saga.Processed{}).When(saga.Refused{Reason: "no"}).
		Leaves(saga.StatusCompensating, ask{"undo a 1"}))
	t.Run("cancelled beside a skipped step", theSaga.Given(begun{"1"}, did{}).When(saga.Cancel{Reason: "r"}).Leaves(saga.StatusCompensating, ask{"undo seat 1!"}))
	after := []any{begun{"1"}, saga.Processed{}, didB{}, didC{}}
	t.Run("the last one is skipped", theSaga.Given(after...).When(didC{}).Ends(saga.StatusCompleted))

	d := conditional()
	d.Steps[0].SkipIf, d.Steps[1].Parallel[0].SkipIf, d.Steps[2].SkipIf = func(d data) bool { return d.ID == "9" }, d.Steps[1].Parallel[1].SkipIf, d.Steps[4].SkipIf
	d.Steps = append(d.Steps[:3:3], d.Steps[4])
	none := sagatest.For(d)
	t.Run("all are skipped", none.Given().When(begun{"9"}).Ends(saga.StatusCompleted))
	d.Steps = append(d.Steps[:3:3], definition().Steps[2])
	t.Run("behind a skipped pivot it is too late to cancel", sagatest.For(d).Given(begun{"9"}).When(saga.Cancel{Reason: "r"}).Refused(saga.ErrTooLate))
}

func TestSkippedStepsAreShown(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(conditional()), State: saga.State{ID: "s"}}
	for _, input := range []any{begun{"1"}, saga.Processed{}} {
		reaction, err := run.Feed(input)
		require.NoError(t, err)
		for _, f := range reaction.Events {
			if skipped, ok := f.(saga.SkippedByCondition); ok {
				require.Equal(t, []string{"hold seat", "hold room"}, skipped.Steps)
				require.Equal(t, "do b", skipped.Next.Step, "what is asked next stands in it")
			}
		}
	}
	require.Equal(t, saga.StepStatusSkipped, run.State.Step("hold room").Status)
	require.Contains(t, saga.New(conditional()).Diagram(), "do_c --> [*]: skipped by its condition")
	require.True(t, saga.New(conditional()).Outline()[2].SkipIf)
}
