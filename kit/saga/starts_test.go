package saga_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type (
	paid      struct{ Order string }
	wasPacked struct{ Order string }
	ordered   struct{ Order string }
)

func startOf[E any](mark string, subject func(E) string) saga.Expected[data] {
	return saga.OnSubject(subject, func(d *data, e E) { d.ID = subject(e); d.Seen += mark })
}

// whenAll is the definition that starts after an order is paid, packed and ordered.
func whenAll() saga.Definition[data] {
	d := definition()
	d.Start = saga.Expected[data]{}
	d.StartAll = &saga.StartAll[data]{Timeout: time.Hour, Events: []saga.Expected[data]{
		startOf("p", func(e paid) string { return e.Order }), startOf("k", func(e wasPacked) string { return e.Order }), startOf("o", func(e ordered) string { return e.Order }),
	}}
	return d
}

func TestStartAny(t *testing.T) {
	d := definition()
	d.StartAny = []saga.Expected[data]{startOf("p", func(e paid) string { return e.Order })}
	require.NoError(t, d.Check())
	theSaga := sagatest.For(d)
	t.Run("by one", theSaga.Given().When(begun{"1"}).Then(ask{"a 1"}))
	t.Run("by the other one", theSaga.Given().When(paid{"1"}).Then(ask{"a 1p"}))
	t.Run("by both: one instance", theSaga.Given(begun{"1"}).When(paid{"1"}).Ends(saga.StatusRunning))
	s := saga.New(d)
	require.True(t, s.Starts(begun{}) && s.Starts(paid{}))
	require.Equal(t, "1", s.Subject(paid{"1"}, "payment-7"))
	require.Equal(t, "order-7", s.Subject(begun{"1"}, "order-7"))
	require.Equal(t, "saga_test.begun or saga_test.paid", s.Outline()[0].Starts)
}

func TestStartAll(t *testing.T) {
	require.NoError(t, whenAll().Check())
	theSaga, timeOut := sagatest.For(whenAll()), sagatest.TimeOut{}
	p, k, o := paid{"1"}, wasPacked{"1"}, ordered{"1"}
	t.Run("the first: waits", theSaga.Given().When(p).Ends(saga.StatusRunning))
	t.Run("the same again counts once", theSaga.Given(p, k).When(p).Ends(saga.StatusRunning))
	t.Run("all", theSaga.Given(p, k).When(o).Then(ask{"a 1pko"}))
	t.Run("in another order", theSaga.Given(o, k, k).When(p).Then(ask{"a 1okp"}))
	t.Run("one again, later", theSaga.Given(o, k, p).When(k).Ends(saga.StatusRunning))
	t.Run("not all in time", theSaga.Given(o, k).When(timeOut).Leaves(saga.StatusCompensating, ask{"give up: await paid: no answer in time"}))
	t.Run("one after that", theSaga.Given(o, k, timeOut).When(p).Ends(saga.StatusCompensating))
	t.Run("cancelled", theSaga.Given(o).When(saga.Cancel{Reason: "r"}).Leaves(saga.StatusCompensating, ask{"give up: r"}))
	s := saga.New(whenAll())
	require.Empty(t, s.AwaitedEvents(), "they are found by the subject")
	require.Len(t, s.EventTypes()[:3], 3)
	require.Equal(t, "saga_test.paid and saga_test.wasPacked and saga_test.ordered", s.Outline()[0].Starts)
}

func TestStartsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*saga.Definition[data]){
		"instead of Start and StartAny":      func(d *saga.Definition[data]) { d.Start = saga.Event[begun, data]() },
		"needs two events or more":           func(d *saga.Definition[data]) { d.StartAll.Events = d.StartAll.Events[:1] },
		"a time in which they come":          func(d *saga.Definition[data]) { d.StartAll.Timeout = 0 },
		"is started by saga_test.paid twice": func(d *saga.Definition[data]) { d.StartAll.Events[1] = d.StartAll.Events[0] },
		"has no event that starts it":        func(d *saga.Definition[data]) { d.StartAll = nil },
		"which starts the saga": func(d *saga.Definition[data]) {
			d.Steps[0] = saga.Step[data]{Name: "x", Timeout: time.Second, Await: &saga.Await[data]{Received: saga.Event[paid, data](), Key: func(d data) string { return d.ID }}}
		},
	} {
		d := whenAll()
		change(&d)
		require.ErrorContains(t, d.Check(), want)
	}
}
