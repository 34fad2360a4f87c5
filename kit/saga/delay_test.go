package saga_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

const month = 30 * 24 * time.Hour

// delayed is the definition with a month between its first step and the pivot, a delay beside another step, and one after the pivot.
func delayed() saga.Definition[data] {
	d := parallel()
	delay := func(name string, long time.Duration) saga.Step[data] {
		return saga.Step[data]{Name: name, Delay: func(data) time.Duration { return long }}
	}
	stage := saga.Step[data]{Parallel: []saga.Step[data]{d.Steps[1].Parallel[0], delay("wait two seconds", 2*time.Second)}}
	d.Steps = []saga.Step[data]{d.Steps[0], delay("wait a month", month), stage, d.Steps[2], delay("wait an hour", time.Hour), d.Steps[4]}
	return d
}

func TestDelay(t *testing.T) {
	require.NoError(t, delayed().Check())
	theSaga, timeOut := sagatest.For(delayed()), sagatest.TimeOut{}
	t.Run("no command is sent", theSaga.Given(begun{"1"}).When(did{}).Leaves(saga.StatusRunning))
	t.Run("the time is up", theSaga.Given(begun{"1"}, did{}).When(timeOut).Then(ask{"seat 1!"}))
	t.Run("cancelled meanwhile", theSaga.Given(begun{"1"}, did{}).When(saga.Cancel{Reason: "r"}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	stage := []any{begun{"1"}, did{}, timeOut}
	given := func(more ...any) sagatest.Scenario { return theSaga.Given(append(stage[:3:3], more...)...) }
	t.Run("beside a step that is completed", given(seated{}).When(timeOut).Then(ask{"b 1!s"}))
	t.Run("beside a step that is refused: it is cancelled", given().When(saga.Refused{Reason: "no"}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("beside a step that times out first: it is cancelled", given().When(timeOut).Leaves(saga.StatusCompensating, ask{"undo seat 1!"}))
	t.Run("after the pivot", given(seated{}, timeOut, didB{}).When(timeOut).Then(ask{"c 1!s"}))
	t.Run("after the pivot it is too late to cancel", given(seated{}, timeOut, didB{}).When(saga.Cancel{}).Refused(saga.ErrTooLate))

	d := delayed()
	d.Steps[1].Timeout = time.Second
	require.ErrorContains(t, d.Check(), "step 2 is a delay: it only waits")
	d.Steps[1] = saga.Step[data]{Name: "do a", Delay: func(data) time.Duration { return 0 }}
	require.ErrorContains(t, d.Check(), `step 2 needs a name of its own, has "do a"`)
}

// DelayUntil ends at a time, which is compared with the engine's clock and not with that of the process.
func TestDelayUntil(t *testing.T) {
	now := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	until := func(at time.Time) *time.Time {
		d := delayed()
		d.Steps[1] = saga.Step[data]{Name: "wait", DelayUntil: func(data) time.Time { return at }}
		run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "s"}, Now: now}
		for _, input := range []any{begun{"1"}, did{}} {
			_, err := run.Feed(input)
			require.NoError(t, err)
		}
		return run.State.Step("wait").Deadline
	}
	require.Equal(t, now.Add(48*time.Hour), *until(now.Add(48 * time.Hour).In(time.FixedZone("", 3600))))
	require.WithinDuration(t, now, *until(now.Add(-time.Hour)), time.Second, "a time in the past is over at once")

	d := delayed()
	d.Steps[1] = saga.Step[data]{Name: "wait", Delay: func(data) time.Duration { return 0 }, DelayUntil: func(data) time.Time { return now }}
	require.ErrorContains(t, d.Check(), `step "wait" has Delay and DelayUntil: set one of them`)
}

// A delay sets one durable timer, and nothing happens before the timer fires.
func TestDelayIsOneTimer(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(delayed()), State: saga.State{ID: "s"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	_, err := run.Feed(begun{"1"})
	require.NoError(t, err)
	_, err = run.Feed(did{})
	require.NoError(t, err)
	waits := run.State.Step("wait a month")
	require.Equal(t, saga.StepStatusInProgress, waits.Status)
	require.True(t, waits.Wait)
	first, err := run.Feed(saga.Timeout{SagaID: "s", Step: "do a", Branch: "do", Attempt: 1}) // the timer of the step before
	require.NoError(t, err)
	require.Empty(t, first.Events)
	require.Len(t, first.Timers, 1, "set anew for the month")
	require.Equal(t, *waits.Deadline, first.Timers[0].DueAt)
	run.Now = *waits.Deadline
	due, err := run.Feed(first.Timers[0].Timeout)
	require.NoError(t, err)
	require.IsType(t, saga.StepCompleted{}, due.Events[0])
	again, err := run.Feed(first.Timers[0].Timeout)
	require.NoError(t, err)
	require.Empty(t, again.Events)
	require.Contains(t, saga.New(delayed()).Diagram(), "wait_a_month --> fork_3: the time is up")
	require.True(t, saga.New(delayed()).Outline()[1].Delay)
}
