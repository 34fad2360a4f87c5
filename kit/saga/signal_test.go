package saga_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type inspected struct {
	Grade string `json:"grade"`
}

// inspection is the definition with a step that waits for an inspector's signal between its first step and the pivot.
func inspection() saga.Definition[data] {
	d := definition()
	wait := saga.Step[data]{Name: "wait for inspector", Timeout: time.Hour, Signal: &saga.Signal[data]{
		Name: "inspection", Roles: []string{"inspector"}, Received: saga.On(func(d *data, p inspected) { d.Seen += p.Grade }),
	}}
	d.Steps = []saga.Step[data]{d.Steps[0], wait, d.Steps[1], d.Steps[2]}
	return d
}

func TestSignal(t *testing.T) {
	require.NoError(t, inspection().Check())
	theSaga, timeOut := sagatest.For(inspection()), sagatest.TimeOut{}
	good := saga.SignalInput{Name: "inspection", By: "ada", Payload: inspected{"A"}}
	waits := []any{begun{"1"}, did{}}
	t.Run("no command is sent", theSaga.Given(begun{"1"}).When(did{}).Leaves(saga.StatusRunning))
	t.Run("the payload is remembered", theSaga.Given(waits...).When(good).Then(ask{"b 1!A"}))
	t.Run("too early", theSaga.Given(begun{"1"}).When(good).Refused(saga.ErrNotAwaited))
	t.Run("twice", theSaga.Given(append(waits, good)...).When(good).Refused(saga.ErrNotAwaited))
	t.Run("another one", theSaga.Given(waits...).When(saga.SignalInput{Name: "other"}).Refused(saga.ErrNotAwaited))
	t.Run("nobody sends it: refused", theSaga.Given(waits...).When(timeOut).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("why", theSaga.Given(append(waits, timeOut)...).When(undone{}).Then(ask{"give up: wait for inspector: no answer in time"}))
	t.Run("cancelled", theSaga.Given(waits...).When(saga.Cancel{Reason: "r"}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("after that it is too late", theSaga.Given(append(waits, saga.Cancel{Reason: "r"})...).When(good).Refused(saga.ErrNotAwaited))

	d := inspection()
	d.Steps[1].Signal.Optional = true
	t.Run("optional: the saga goes on", sagatest.For(d).Given(waits...).When(timeOut).Leaves(saga.StatusRunning, ask{"b 1!"}))
	d.Steps[1], d.Steps[2] = d.Steps[2], d.Steps[1]
	require.NoError(t, d.Check(), "after the pivot, optional")

	d = inspection()
	d.Steps[1].Fallback = detour().Steps[1].Parallel[1].Fallback
	d.Steps[1].Fallback.WhenOpen, d.Steps[1].Fallback.WhenRefused = false, nil
	require.NoError(t, d.Check())
	t.Run("an alternative", sagatest.For(d).Given(waits...).When(timeOut).Leaves(saga.StatusRunning, ask{"tent 1!"}))

	d = inspection()
	d.Steps[1] = saga.Step[data]{Parallel: []saga.Step[data]{d.Steps[1], parallel().Steps[1].Parallel[0]}}
	beside := sagatest.For(d)
	t.Run("beside a step", beside.Given(append(waits, good)...).When(seated{}).Then(ask{"b 1!As"}))
	t.Run("beside a step that is refused", beside.Given(waits...).When(saga.Refused{Reason: "no"}).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
}

func TestCheckOfSignals(t *testing.T) {
	for want, spoil := range map[string]func(*saga.Definition[data]){
		"needs the roles that may send it":         func(d *saga.Definition[data]) { d.Steps[1].Signal.Roles = nil },
		"the kit does not know whose saga it is":   func(d *saga.Definition[data]) { d.Steps[1].Signal.Roles = []string{"customer"} },
		`its name "In spect" is not of lower case`: func(d *saga.Definition[data]) { d.Steps[1].Signal.Name = "In spect" },
		"it needs a payload, which is a struct":    func(d *saga.Definition[data]) { d.Steps[1].Timeout = 0 },
		"after the pivot: it must be optional":     func(d *saga.Definition[data]) { d.Steps[1], d.Steps[2] = d.Steps[2], d.Steps[1] },
		"no other field is set but Name, SkipIf":   func(d *saga.Definition[data]) { d.Steps[1].Action = asks("x") },
		`a name of its own, has "do a"`:            func(d *saga.Definition[data]) { d.Steps[1].Name = "do a" },
		"and so does another step":                 func(d *saga.Definition[data]) { d.Steps = append([]saga.Step[data]{d.Steps[1]}, d.Steps...) },
		"it is taken when the time is up, and not": func(d *saga.Definition[data]) { d.Steps[1].Fallback = withFallback().Steps[0].Fallback },
		"its fallback would never be taken": func(d *saga.Definition[data]) {
			d.Steps[1].Fallback, d.Steps[1].Signal.Optional = withFallback().Steps[0].Fallback, true
		},
		`fallback "do a2" needs a compensation and t`: func(d *saga.Definition[data]) {
			f := *withFallback().Steps[0].Fallback
			f.Compensation = nil
			d.Steps[1].Fallback = &f
		},
	} {
		d := inspection()
		spoil(&d)
		require.ErrorContains(t, d.Check(), want)
	}
}

func TestSignalStandsInTheHistory(t *testing.T) {
	run := sagatest.Run{Saga: saga.New(inspection()), State: saga.State{ID: "s"}}
	for _, input := range []any{begun{"1"}, did{}} {
		_, err := run.Feed(input)
		require.NoError(t, err)
	}
	require.Equal(t, "inspection", run.State.Signals["wait for inspector"])
	reaction, err := run.Feed(saga.SignalInput{Name: "inspection", By: "ada", Payload: inspected{"A"}})
	require.NoError(t, err)
	received := reaction.Events[0].(saga.SignalReceived)
	require.Equal(t, "ada", received.By)
	require.JSONEq(t, `{"grade":"A"}`, string(received.Payload))
	require.Equal(t, "do b", received.Next.Step)
	_, err = run.Saga.React(saga.State{}, saga.SignalInput{Name: "inspection", Payload: 1}, saga.Env{})
	require.ErrorIs(t, err, saga.ErrNotAwaited)

	signals := run.Saga.Signals()
	require.Len(t, signals, 1)
	require.Equal(t, []string{"inspector"}, signals[0].Roles)
	diagram := run.Saga.Diagram()
	require.Contains(t, diagram, "wait_for_inspector --> do_b: signal inspection")
	require.Contains(t, diagram, "wait_for_inspector --> undo_do_a: no signal in 1h0m0s, or cancelled")
}
