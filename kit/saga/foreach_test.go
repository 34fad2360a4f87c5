package saga_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

// shipment is the data of a saga that sends several parcels.
type shipment struct {
	Parcels []string
	Chosen  string
	Sent    []string
}

type (
	packed   struct{ Parcels []string }
	sent     struct{ Parcel string }
	returned struct{}
)

// shipping sends parcels, at most two at once.
func shipping() saga.Definition[shipment] {
	command := func(what string) func(shipment) cqrs.Keyed {
		return func(d shipment) cqrs.Keyed { return ask{what + " " + d.Chosen} }
	}
	return saga.Definition[shipment]{
		Name: "shipping", Version: 1, AlertAfter: 3, Start: saga.On(func(d *shipment, e packed) { d.Parcels = e.Parcels }),
		Steps: []saga.Step[shipment]{
			{
				Name: "send parcel", Action: command("send"), Completed: saga.On(func(d *shipment, e sent) { d.Sent = append(d.Sent, e.Parcel) }),
				Refused: []saga.Refusal{saga.RefusedBy(func(e refused) string { return e.Why })}, Compensation: command("return"),
				Compensated: saga.Event[returned, shipment](), Timeout: time.Second,
				ForEach: &saga.ForEach[shipment]{
					Items: func(d shipment) int { return len(d.Parcels) }, Item: func(d shipment, n int) shipment { d.Chosen = d.Parcels[n]; return d }, AtOnce: 2, Max: 4,
				},
			},
			{Name: "pay", Action: func(d shipment) cqrs.Keyed { return ask{"pay " + strings.Join(d.Sent, "") + d.Chosen} }, Completed: saga.Event[didB, shipment](), Timeout: time.Second, Pivot: true},
		},
		OnCompensated: saga.FinalStep[shipment]{
			Name: "give up", Action: func(_ shipment, reason string) cqrs.Keyed { return ask{"give up: " + reason} }, Completed: saga.Event[ended, shipment](), Timeout: time.Second,
		},
	}
}

func of(item int, event any) sagatest.Reply {
	return sagatest.Reply{Step: fmt.Sprint("send parcel#", item), Event: event}
}

func TestForEach(t *testing.T) {
	require.NoError(t, shipping().Check())
	theSaga, timeOut, cancel := sagatest.For(shipping()), sagatest.TimeOut{}, saga.Cancel{Reason: "by hand"}
	three := packed{[]string{"a", "b", "c"}}
	given := func(more ...any) sagatest.Scenario { return theSaga.Given(append([]any{three}, more...)...) }

	t.Run("as many as may be in flight", theSaga.Given().When(three).Then(ask{"send a"}, ask{"send b"}))
	t.Run("one", theSaga.Given().When(packed{[]string{"a"}}).Then(ask{"send a"}))
	t.Run("none: skipped", theSaga.Given().When(packed{}).Then(ask{"pay "}))
	t.Run("the next one when one is done", given().When(of(2, sent{"b"})).Then(ask{"send c"}))
	t.Run("not all are done", given(of(2, sent{"b"}), of(3, sent{"c"})).When(saga.Retry{}).Refused(saga.ErrNotStuck))
	t.Run("all are done; the choice is not remembered", given(of(2, sent{"b"}), of(3, sent{"c"})).When(of(1, sent{"a"})).Then(ask{"pay bca"}))
	t.Run("one refused: those in flight are in doubt", given().When(of(1, refused{"no"})).Leaves(saga.StatusCompensating, ask{"return b"}))
	t.Run("one refused: those done too, as many as may be in flight", given(of(1, sent{"a"}), of(2, sent{"b"})).When(of(3, refused{"no"})).Then(ask{"return b"}, ask{"return a"}))
	t.Run("those that were not asked are left", given(of(1, refused{"no"})).When(of(2, returned{})).Then(ask{"give up: no"}))
	t.Run("too many", theSaga.Given().When(packed{[]string{"a", "b", "c", "d", "e"}}).Leaves(saga.StatusCompensating, ask{"give up: send parcel: it has 5 items, and the most is 4"}))
	t.Run("both in doubt", given().When(timeOut).Leaves(saga.StatusCompensating, ask{"return b"}, ask{"return a"}))
	t.Run("cancelled, one after the other two", theSaga.Given(packed{[]string{"a", "b", "c", "d"}}, of(1, sent{"a"}), of(2, sent{"b"}), of(3, sent{"c"})).When(cancel).Then(ask{"return d"}, ask{"return c"}))
	t.Run("and then the others", theSaga.Given(packed{[]string{"a", "b", "c", "d"}}, of(1, sent{"a"}), of(2, sent{"b"}), of(3, sent{"c"}), cancel).When(of(4, returned{})).Then(ask{"return b"}))
}

func TestForEachWithFallback(t *testing.T) {
	d := shipping()
	d.Steps[0].Fallback = &saga.Fallback[shipment]{
		Name: "send by bike", Action: func(d shipment) cqrs.Keyed { return ask{"bike " + d.Chosen} }, Completed: saga.Event[did, shipment](), Timeout: time.Second,
		Compensation: func(d shipment) cqrs.Keyed { return ask{"unbike " + d.Chosen} }, Compensated: saga.Event[undone, shipment](),
		WhenOpen: true, WhenTimedOut: true, WhenRefused: []string{"full"},
	}
	require.NoError(t, d.Check())
	theSaga, three := sagatest.For(d), packed{[]string{"a", "b", "c"}}
	bike := func(item int, e any) sagatest.Reply {
		return sagatest.Reply{Step: fmt.Sprint("send by bike#", item), Event: e}
	}
	open := theSaga.While(func(c cqrs.Keyed) bool { return c.Key() == "send b" })
	t.Run("of one item, in its place", theSaga.Given(three).When(of(1, refused{"full"})).Leaves(saga.StatusRunning, ask{"bike a"}))
	t.Run("then the next item", theSaga.Given(three, of(1, refused{"full"})).When(bike(1, did{})).Leaves(saga.StatusRunning, ask{"send c"}))
	t.Run("of one whose breaker is open", open.Given().When(three).Then(ask{"send a"}, ask{"bike b"}))
	t.Run("each item goes back its own way", theSaga.Given(three, of(1, refused{"full"}), bike(1, did{}), of(2, sent{"b"})).When(of(3, refused{"no"})).Then(ask{"return b"}, ask{"unbike a"}))
	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Now()}
	for _, in := range []any{three, of(1, refused{"full"}), bike(1, did{})} {
		_, err := run.Feed(in)
		require.NoError(t, err)
	}
	require.Equal(t, saga.StepStatusCompleted, run.State.Step("send by bike").Status, "the other items do not need it")
	t.Run("in doubt: compensated first", theSaga.Given(three, of(1, sent{"a"}), of(2, sent{"b"}), sagatest.TimeOut{}).When(of(3, returned{})).Leaves(saga.StatusRunning, ask{"bike c"}))
}

// After the pivot nothing is compensated: the saga needs an operator.
func TestForEachAfterThePivot(t *testing.T) {
	d := shipping()
	d.Steps[0], d.Steps[1] = d.Steps[1], d.Steps[0]
	last := &d.Steps[1]
	last.Retriable, last.Compensation, last.Compensated, last.ForEach.Max = true, nil, saga.Expected[shipment]{}, 2
	require.NoError(t, d.Check())
	theSaga, stuck := sagatest.For(d), packed{[]string{"a", "b", "c"}}
	t.Run("each", theSaga.Given(packed{[]string{"a", "b"}}).When(didB{}).Then(ask{"send a"}, ask{"send b"}))
	t.Run("one is stuck", theSaga.Given(packed{[]string{"a", "b"}}, didB{}).When(of(1, refused{"no"})).Leaves(saga.StatusStuck))
	t.Run("and is retried", theSaga.Given(packed{[]string{"a", "b"}}, didB{}, of(1, refused{"no"})).When(saga.Retry{}).Then(ask{"send a"}))
	t.Run("and is skipped", theSaga.Given(packed{[]string{"a", "b"}}, didB{}, of(1, refused{"no"}), of(2, sent{})).When(saga.Skip{Step: "send parcel#1"}).Ends(saga.StatusCompleted))
	t.Run("too many", theSaga.Given(stuck).When(didB{}).Leaves(saga.StatusStuck))
	t.Run("too many, still", theSaga.Given(stuck, didB{}).When(saga.Retry{}).Leaves(saga.StatusStuck))
	t.Run("too many, after a while", theSaga.Given(stuck, didB{}, saga.Retry{}, sagatest.TimeOut{}).When(sagatest.TimeOut{}).Leaves(saga.StatusStuck))
	t.Run("too many, done by hand", theSaga.Given(stuck, didB{}).When(saga.Skip{}).Ends(saga.StatusCompleted))

	// A new release raises Max.
	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Now()}
	for _, in := range []any{stuck, didB{}} {
		_, err := run.Feed(in)
		require.NoError(t, err)
	}
	last.ForEach.Max = 3
	run.Saga = saga.New(d)
	r, err := run.Feed(saga.Retry{})
	require.NoError(t, err)
	require.Len(t, r.Commands, 2)
	require.Equal(t, saga.StatusRunning, r.State.Status)
}

func TestForEachNeedsABound(t *testing.T) {
	for want, change := range map[string]func(*saga.Step[shipment]){
		"needs the most that are in flight": func(s *saga.Step[shipment]) { s.ForEach.AtOnce = 0 },
		"and the most that there may be":    func(s *saga.Step[shipment]) { s.ForEach.Max = 0 },
		"the function that chooses one":     func(s *saga.Step[shipment]) { s.ForEach.Item = nil },
		"must not contain #":                func(s *saga.Step[shipment]) { s.Name = "send#1" },
		"is the pivot":                      func(s *saga.Step[shipment]) { s.Pivot = true },
		"needs a compensation":              func(s *saga.Step[shipment]) { s.Compensation = nil },
	} {
		d := shipping()
		change(&d.Steps[0])
		require.ErrorContains(t, d.Check(), want)
	}
}

// The size of a saga's state is bounded by the number of items, however long the saga runs, and the state counts the items by status.
func TestForEachOfAThousand(t *testing.T) {
	d := shipping()
	d.Steps[0].ForEach.AtOnce, d.Steps[0].ForEach.Max = 10, 1000
	d.Steps[0].Completed = saga.Event[sent, shipment]()
	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Now()}
	all := packed{Parcels: make([]string, 1000)}
	for i := range all.Parcels {
		all.Parcels[i] = fmt.Sprint(i)
	}
	_, err := run.Feed(all)
	require.NoError(t, err)
	facts := 0
	for next := 0; next < len(run.Sent) && run.Sent[next].Step != "pay"; next++ {
		c := run.Sent[next]
		r, err := run.Feed(saga.Answer{Event: sent{}, Step: c.Step, Branch: c.Branch, CommandID: c.ID})
		require.NoError(t, err)
		facts += len(r.Events)
		require.LessOrEqual(t, run.State.Step("send parcel").Counts[saga.StepStatusInProgress], 10)
	}
	parcels := run.State.Step("send parcel")
	require.Equal(t, saga.StepStatusCompleted, parcels.Status)
	require.Equal(t, 1000, parcels.Counts[saga.StepStatusCompleted])
	require.Equal(t, 1000, facts)
	require.Equal(t, "pay", run.Sent[1000].Step)
}

// The remaining items of a resolved saga are not in progress after the saga has ended.
func TestItemsThatAreLeftOfAResolvedSaga(t *testing.T) {
	d := shipping()
	d.Steps[0].Retriable, d.Steps[0].Compensation, d.Steps[0].Compensated = true, nil, saga.Expected[shipment]{}
	tell := d.Steps[1]
	tell.Name, tell.Pivot, tell.Retriable = "tell", false, true
	d.Steps = []saga.Step[shipment]{d.Steps[1], d.Steps[0], tell}
	require.NoError(t, d.Check())
	run := sagatest.Run{Saga: saga.New(d), State: saga.State{ID: "saga-1"}, Now: time.Now()}
	for _, in := range []any{packed{[]string{"a", "b", "c"}}, didB{}, of(1, refused{"no"}), saga.Resolve{By: "ada"}, sagatest.Reply{Step: "tell", Event: didB{}}} {
		_, err := run.Feed(in)
		require.NoError(t, err)
	}
	require.Equal(t, saga.StatusCompleted, run.State.Status)
	step := run.State.Step("send parcel")
	require.Equal(t, saga.StepStatusCompleted, step.Status)
	require.NotNil(t, step.EndedAt)
}
