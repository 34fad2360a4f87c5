package saga_test

import (
	html "html/template"
	"strings"
	"testing"
	text "text/template"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type parcelCame struct{ Parcel, Weight string }

// awaiting is the definition with a step that waits at most 14 days for a parcel, and sends a reminder after 10 days.
func awaiting() saga.Definition[data] {
	d := definition()
	wait := saga.Step[data]{
		Name: "wait there", Timeout: 14 * 24 * time.Hour,
		Await: &saga.Await[data]{
			Received: saga.On(func(d *data, e parcelCame) { d.Seen += e.Weight }), Key: func(d data) string { return d.ID },
			EventKey: saga.KeyOf(func(e parcelCame) string { return e.Parcel }),
		},
		Reminder: &saga.Reminder[data]{After: 10 * 24 * time.Hour, Action: asks("remind")},
	}
	d.Steps = []saga.Step[data]{d.Steps[0], wait, d.Steps[1], d.Steps[2]}
	return d
}

func TestAwait(t *testing.T) {
	require.NoError(t, awaiting().Check())
	theSaga, timeOut, came, cancel := sagatest.For(awaiting()), sagatest.TimeOut{}, parcelCame{"1", "w"}, saga.Cancel{Reason: "r"}
	given := func(more ...any) sagatest.Scenario {
		return theSaga.Given(append([]any{begun{"1"}, did{}}, more...)...)
	}
	t.Run("no command", theSaga.Given(begun{"1"}).When(did{}).Leaves(saga.StatusRunning))
	t.Run("it comes", given().When(came).Then(ask{"b 1!w"}))
	t.Run("it comes early", theSaga.Given(begun{"1"}, came).When(did{}).Then(ask{"b 1!w"}))
	t.Run("reminder", given().When(timeOut).Leaves(saga.StatusRunning, ask{"remind 1!"}))
	t.Run("it comes after the reminder", given(timeOut).When(came).Then(ask{"b 1!w"}))
	t.Run("it does not come: refused", given(timeOut).When(timeOut).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("cancelled", given().When(cancel).Leaves(saga.StatusCompensating, ask{"undo a 1!"}))
	t.Run("it comes after that", given(cancel).When(saga.EventInput{Step: "wait there", Event: came}).Leaves(saga.StatusCompensating))
	t.Run("no key", theSaga.Given(begun{}).When(did{}).Leaves(saga.StatusCompensating, ask{"undo a !"}))
	t.Run("a key that is too long", theSaga.Given(begun{strings.Repeat("k", 1001)}, did{}).When(undone{}).Then(
		ask{"give up: wait there: the key is longer than 1000 bytes to wait for saga_test.parcelCame by"}))
	t.Run("no key: why", theSaga.Given(begun{}, did{}).When(undone{}).Then(ask{"give up: wait there: there is no key to wait for saga_test.parcelCame by"}))

	d := awaiting()
	d.Steps[1].Await.Optional = true
	t.Run("optional: goes on", sagatest.For(d).Given(begun{"1"}, did{}, timeOut).When(timeOut).Leaves(saga.StatusRunning, ask{"b 1!"}))

	d = awaiting()
	instead := *detour().Steps[1].Parallel[1].Fallback
	instead.WhenOpen, instead.WhenRefused = false, nil
	d.Steps[1].Fallback = &instead
	t.Run("the alternative", sagatest.For(d).Given(begun{"1"}, did{}, timeOut).When(timeOut).Leaves(saga.StatusRunning, ask{"tent 1!"}))
}

// The times of the reminder and of the timeout count from the beginning of the step, and the reaction lists the waits that begin and end.
func TestAwaitTellsItsWaits(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	run := sagatest.Run{Saga: saga.New(awaiting()), State: saga.State{ID: "saga-1"}, Now: begin}
	feed := func(in any) saga.Reaction {
		r, err := run.Feed(in)
		require.NoError(t, err)
		return r
	}
	feed(begun{"1"})
	wait := saga.Wait{Step: "wait there", Correlation: saga.Correlation{Event: "saga_test.parcelCame", Key: "1"}}
	r := feed(did{})
	require.Equal(t, []saga.Wait{wait}, r.Waits)
	require.WithinDuration(t, begin.AddDate(0, 0, 10), *r.State.Step("wait there").Deadline, time.Second)
	r = feed(sagatest.TimeOut{})
	require.WithinDuration(t, begin.AddDate(0, 0, 14), *r.State.Step("wait there").Deadline, time.Second)
	require.True(t, r.Commands[0].Notice)
	require.Empty(t, r.EndedWaits)
	r = feed(sagatest.TimeOut{})
	require.Equal(t, []saga.Wait{wait}, r.EndedWaits)
}

func TestAwaitIsChecked(t *testing.T) {
	for want, change := range map[string]func(*saga.Step[data]){
		"needs the event":                      func(s *saga.Step[data]) { s.Await.Received = saga.Expected[data]{} },
		"needs the key in the data":            func(s *saga.Step[data]) { s.Await.Key = nil },
		"no field of the data fills its key":   func(s *saga.Step[data]) { s.Await.Key = func(data) string { return "" } },
		"no field of the event fills its key":  func(s *saga.Step[data]) { s.Await.EventKey = saga.KeyOf(func(parcelCame) string { return "" }) },
		"its EventKey is that of":              func(s *saga.Step[data]) { s.Await.EventKey = saga.KeyOf(func(did) string { return "x" }) },
		"a time shorter than that of the step": func(s *saga.Step[data]) { s.Reminder.After = s.Timeout },
		"no other field is set but":            func(s *saga.Step[data]) { s.Pivot = true },
		"which one would be meant?": func(s *saga.Step[data]) {
			two := *s
			two.Name = "wait too"
			*s = saga.Step[data]{Parallel: []saga.Step[data]{*s, two}}
		},
		"waits neither for a signal nor for an eve": func(s *saga.Step[data]) {
			*s = definition().Steps[0]
			s.Name = "x"
			s.Reminder = awaiting().Steps[1].Reminder
		},
	} {
		d := awaiting()
		change(&d.Steps[1])
		require.ErrorContains(t, d.Check(), want)
	}
	d := awaiting()
	d.Steps[1], d.Steps[2] = d.Steps[2], d.Steps[1]
	require.ErrorContains(t, d.Check(), "after the pivot: it must be optional")
}

// The clock of a process may be up to 500 ms behind that of the database, which decides when a timer fires. The next timer is set all the same.
func TestATimerThatFiresEarlyByTheClockOfTheInstance(t *testing.T) {
	for name, steps := range map[string][]saga.Step[data]{"reminder": {awaiting().Steps[1]}, "command again": {definition().Steps[1]}} {
		t.Run(name, func(t *testing.T) {
			d := awaiting()
			d.Steps = steps
			run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
			started, err := run.Feed(begun{"1"})
			require.NoError(t, err)
			require.Len(t, started.Timers, 1)
			late, err := run.Saga.React(run.State, started.Timers[0].Timeout, saga.Env{Now: started.Timers[0].DueAt.Add(-300 * time.Millisecond)})
			require.NoError(t, err)
			require.Len(t, late.Timers, 1)
			require.NotContains(t, late.CancelledTimers, late.Timers[0].ID)
		})
	}
}

// Event types are stored by their name and the last element of their package's path, so these two types would have the same stored name.
func TestAwaitedEventsOfTheSameName(t *testing.T) {
	d := awaiting()
	d.Steps[1].Await.Received, d.Steps[1].Await.EventKey = saga.Event[html.Template, data](), saga.EventKey{}
	require.NoError(t, d.Check())
	other := d.Steps[1]
	other.Name, other.Await = "wait again", &saga.Await[data]{Received: saga.Event[text.Template, data](), Key: func(d data) string { return d.ID }}
	d.Steps = append([]saga.Step[data]{other}, d.Steps...)
	require.ErrorContains(t, d.Check(), "waits for template.Template of text/template and of html/template")
}
