package opsui

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type (
	shipment  struct{ Parcels int }
	packed    struct{ Parcels int }
	sent      struct{}
	full      struct{ Why string }
	returned  struct{}
	biked     struct{}
	delivered struct{}
	order     struct{ Text string }
)

func (o order) Key() string { return o.Text }

// shipping sends parcels, at most ten at once. If a parcel is refused as "full", its fallback sends it by bike.
func shipping() saga.Definition[shipment] {
	command := func(text string) func(shipment) cqrs.Keyed { return func(shipment) cqrs.Keyed { return order{text} } }
	return saga.Definition[shipment]{
		Name: "shipping", Version: 1, AlertAfter: 2, Start: saga.On(func(d *shipment, e packed) { d.Parcels = e.Parcels }),
		Steps: []saga.Step[shipment]{
			{
				Name: "send parcel", Action: command("send"), Completed: saga.Event[sent, shipment](), Timeout: time.Second,
				Refused:      []saga.Refusal{saga.RefusedBy(func(e full) string { return e.Why })},
				Compensation: command("return"), Compensated: saga.Event[returned, shipment](),
				Fallback: &saga.Fallback[shipment]{
					Name: "send by bike", Action: command("bike"), Completed: saga.Event[biked, shipment](), Timeout: time.Second,
					Compensation: command("unbike"), Compensated: saga.Event[returned, shipment](), WhenRefused: []string{"full"},
				},
				ForEach: &saga.ForEach[shipment]{
					Items: func(d shipment) int { return d.Parcels }, Item: func(d shipment, _ int) shipment { return d }, AtOnce: 10, Max: 1000,
				},
			},
			{Name: "say so", Action: command("say"), Completed: saga.Event[delivered, shipment](), Timeout: time.Second, Pivot: true},
		},
		OnCompensated: saga.FinalStep[shipment]{
			Name: "give up", Action: func(_ shipment, reason string) cqrs.Keyed { return order{reason} }, Completed: saga.Event[delivered, shipment](), Timeout: time.Second,
		},
	}
}

// shippingRun is an instance of shipping with its history.
type shippingRun struct {
	t          *testing.T
	run        sagatest.Run
	history    []cqrs.Event
	registered []*saga.Saga
}

func newShipping(t *testing.T, parcels int) *shippingRun {
	t.Helper()
	require.NoError(t, shipping().Check())
	s := saga.New(shipping())
	r := &shippingRun{t: t, run: sagatest.Run{Saga: s, State: saga.State{ID: "01980000-0000-7000-8000-000000000000"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, registered: []*saga.Saga{s}}
	r.feed(packed{parcels})
	return r
}

func (r *shippingRun) feed(inputs ...any) *shippingRun {
	r.t.Helper()
	for _, in := range inputs {
		reaction, err := r.run.Feed(in)
		require.NoError(r.t, err)
		for _, f := range reaction.Events {
			r.history = append(r.history, cqrs.Event{Body: f, Meta: cqrs.Meta{Version: len(r.history) + 1, Time: r.run.Now}})
		}
	}
	return r
}

// each feeds one event for each item of a step, from index from to index to.
func (r *shippingRun) each(step string, from, to int, event any) *shippingRun {
	r.t.Helper()
	for n := from; n <= to; n++ {
		r.feed(sagatest.Reply{Step: fmt.Sprintf("%s#%d", step, n), Event: event})
	}
	return r
}

func (r *shippingRun) view() *SagaView { return NewSagaView(r.run.State.ID, r.history, r.registered) }

func (r *shippingRun) page() string {
	r.t.Helper()
	s := newServer(r.t)
	s.Registered.Sagas = r.registered
	s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{
		cqrs.HandleQuery("History", func(context.Context, manager.History) ([]cqrs.Event, error) { return r.history, nil }),
		cqrs.HandleQuery("List", func(context.Context, manager.List) ([]saga.State, error) { return []saga.State{r.run.State}, nil }),
	})
	answer := serve(r.t, s, http.MethodGet, "/ui/sagas/"+r.run.State.ID, "")
	require.Equal(r.t, http.StatusOK, answer.Code, answer.Body)
	list := serve(r.t, s, http.MethodGet, "/ui/sagas", "")
	require.Equal(r.t, http.StatusOK, list.Code, list.Body)
	return answer.Body.String() + list.Body.String()
}

func (r *shippingRun) texts() (all []string) {
	for _, e := range r.view().History {
		all = append(all, e.Text)
	}
	return all
}

// The items of a step are one row of the timeline, with their numbers by status.
func TestForEachIsOneRow(t *testing.T) {
	r := newShipping(t, 20).each("send parcel", 1, 5, sent{})
	v := r.view()
	require.Len(t, v.Runs, 1)
	row := v.Runs[0]
	require.Equal(t, "send parcel", row.Name())
	require.Equal(t, "in_progress", row.Class)
	require.Equal(t, "for each: 5 of 20 completed, 10 in flight, 5 waiting", row.Counts)
	require.Equal(t, "5 of 20, 10 in flight", row.Result)
	require.False(t, row.Ended)
	require.Len(t, row.Items, 15)
	require.Equal(t, "send parcel#6", row.Items[0].Step, "items in flight come first")
	require.Equal(t, `The saga waits for the results of 10 items of "send parcel".`, v.Summary)

	r.each("send parcel", 6, 20, sent{})
	v = r.view()
	require.Equal(t, "for each: 20 of 20 completed", v.Runs[0].Counts)
	require.Equal(t, "completed", v.Runs[0].Class)
	require.True(t, v.Runs[0].Ended)
	require.Equal(t, 20*time.Millisecond, v.Runs[0].Took, "from the first start to the last end")
	require.Equal(t, "say so", v.Runs[1].Name())
	require.Contains(t, r.page(), "20 of 20, 20 ms")
	require.Contains(t, r.page(), "send parcel: completed (20 completed)")
}

func TestForEachWithOneItemInFlight(t *testing.T) {
	r := newShipping(t, 3).each("send parcel", 1, 2, sent{})
	require.Equal(t, `The saga waits for the result of "send parcel#3".`, r.view().Summary)
}

func TestForEachWithoutItems(t *testing.T) {
	r := newShipping(t, 0)
	require.Equal(t, "skipped", r.view().Runs[0].Class)
	require.Contains(t, r.texts(), "send parcel: no items, so it is skipped")
	require.Contains(t, r.page(), "send parcel: skipped")
}

func TestForEachCompensated(t *testing.T) {
	r := newShipping(t, 30).each("send parcel", 1, 12, sent{}).each("send parcel", 13, 13, full{"no"})
	v := r.view()
	require.Len(t, v.Runs, 2)
	require.Equal(t, "refused", v.Runs[0].Class)
	require.Equal(t, "for each: 12 of 30 completed, 1 refused, 9 in doubt, 8 not taken", v.Runs[0].Counts)
	require.Equal(t, "send parcel#13", v.Runs[0].Items[0].Step, "refused items come first")
	back := v.Runs[1]
	require.Equal(t, "compensate send parcel", back.Name())
	require.Equal(t, "compensating", back.Class)
	require.Equal(t, "for each: 0 of 21 compensated, 10 in flight, 11 waiting", back.Counts)
	for range 21 {
		for _, st := range r.run.State.Step("send parcel").Items {
			if st.Status == saga.StepStatusCompensating {
				r.feed(sagatest.Reply{Step: st.Name, Event: returned{}})
				break
			}
		}
	}
	v = r.view()
	require.Equal(t, "for each: 21 of 21 compensated", v.Runs[1].Counts)
	require.Equal(t, "compensated", v.Runs[1].Class)
	require.Contains(t, r.page(), "↩ 21 of 21")
	r.registered = nil
	require.Contains(t, r.page(), "↩ 21 of 21", "without the definition")
}

func TestForEachWithFallback(t *testing.T) {
	r := newShipping(t, 15).each("send parcel", 1, 2, full{"full"}).feed(sagatest.Reply{Step: "send by bike#1", Event: biked{}}).each("send parcel", 3, 10, sent{})
	v := r.view()
	require.Equal(t, "for each: 8 of 15 completed, 2 refused, 5 in flight", v.Runs[0].Counts)
	require.Equal(t, "for each: 1 of 2 completed, 1 in flight", v.Runs[1].Counts)
	r.each("send parcel", 11, 15, sent{}).feed(sagatest.Reply{Step: "send by bike#2", Event: biked{}})
	v = r.view()
	require.Equal(t, "completed", v.Runs[0].Class, "each refused item was taken by the fallback")
	require.Equal(t, "for each: 13 of 15 completed, 2 refused", v.Runs[0].Counts)
	require.Equal(t, "completed", v.Runs[1].Class)
	var refusals int
	for _, text := range r.texts() {
		if strings.HasSuffix(text, "refused: full") {
			refusals++
		}
	}
	require.Equal(t, 2, refusals, "a refusal has a line of its own")
}

// The page has forms for each stuck item.
func TestForEachStuckItems(t *testing.T) {
	d := shipping()
	last := d.Steps[0]
	last.Fallback, last.Retriable, last.Compensation, last.Compensated = nil, true, nil, saga.Expected[shipment]{}
	d.Steps = []saga.Step[shipment]{d.Steps[1], last}
	require.NoError(t, d.Check())
	r := newShipping(t, 0)
	r.run = sagatest.Run{Saga: saga.New(d), State: saga.State{ID: r.run.State.ID}, Now: r.run.Now}
	r.history, r.registered = nil, []*saga.Saga{r.run.Saga}
	r.feed(packed{20}, delivered{}).each("send parcel", 1, 1, sent{}).each("send parcel", 4, 4, full{"locked"})
	v := r.view()
	require.Equal(t, `"send parcel#4" is not completed after 1 attempt.`, v.Summary)
	require.Equal(t, "for each: 1 of 20 completed, 1 stuck, 9 in flight, 9 waiting", v.Runs[1].Counts)
	require.Equal(t, "1 of 20, 1 stuck", v.Runs[1].Result)
	require.Equal(t, "send parcel#4", v.Runs[1].Items[0].Step)
	require.Equal(t, "stuck", v.Runs[1].Items[0].Class)
	page := r.page()
	require.Contains(t, page, `<input type="hidden" name="step" value="send parcel#4">`)
	require.Contains(t, page, "send parcel#4 is stuck: locked")
	require.Contains(t, page, `title="send parcel: stuck (1 completed, 10 in progress, 9 waiting)"`, "the list of sagas")

	r.each("send parcel", 6, 7, full{"shut"})
	require.Equal(t, `3 items of "send parcel" are not completed.`, r.view().Summary)
	require.Contains(t, r.page(), `id="skip-reason-2"`)
	r.feed(saga.Retry{By: "ada", Step: "send parcel#4"})
	require.Contains(t, r.texts(), "ada retried send parcel#4")
	require.Contains(t, r.texts(), "send parcel#4: command sent, attempt 2")
}

// The page of a thousand items has about as many lines as a page of fifty items.
func TestForEachOfAThousandIsFolded(t *testing.T) {
	r := newShipping(t, 1000).each("send parcel", 1, 700, sent{})
	v := r.view()
	require.Len(t, v.Runs, 1)
	require.Len(t, v.Runs[0].Items, maxItems)
	require.Equal(t, 710-maxItems, v.Runs[0].More)
	require.Equal(t, []string{"started for subject-1", "send parcel: 1000 items", "send parcel, for each: 710 sent, 700 completed, until +0.700 s"}, r.texts())
	folded := v.History[2]
	require.Len(t, folded.Lines, maxItems)
	require.Equal(t, 1410-maxItems, folded.More)
	require.Equal(t, "send parcel#1: command sent", folded.Lines[0].Text)
	page := r.page()
	require.Contains(t, page, "<summary>710 items</summary>")
	require.Contains(t, page, "… and 660 more")
	require.Contains(t, page, "… and 1360 more")
	require.Less(t, len(page), 100_000)
	require.Contains(t, page, "▶ 700 of 1000, 10 in flight")

	r.each("send parcel", 701, 701, full{"no"})
	require.Equal(t, "send parcel#701 refused: no", r.texts()[3])
	require.Equal(t, "send parcel, for each: 10 compensating", r.texts()[4])
}

// A refusal that has a fallback has its own line in the history, but a thousand refusals are folded.
func TestForEachRefusedAThousandTimes(t *testing.T) {
	r := newShipping(t, 200)
	for n := 1; n <= 200; n++ {
		r.each("send parcel", n, n, full{"full"}).each("send by bike", n, n, biked{})
	}
	require.Less(t, len(r.texts()), 4*maxItems)
	require.Contains(t, strings.Join(r.texts(), "\n"), "150 refused")
}

// The saga refuses a step with more items than its definition allows, and the reason has the number of items.
func TestForEachWithTooManyItems(t *testing.T) {
	r := newShipping(t, 1001)
	require.Contains(t, r.texts(), "send parcel refused: send parcel: it has 1001 items, and the most is 1000")
	require.Equal(t, "refused", r.view().Runs[0].Class)
	require.Contains(t, r.page(), "1001 items")
}

func TestForEachOnTheDefinitionsPages(t *testing.T) {
	s := newServer(t)
	s.Registered.Sagas = []*saga.Saga{saga.New(shipping())}
	page := serve(t, s, http.MethodGet, "/ui/definitions/shipping.v1", "").Body.String()
	for _, text := range []string{"for each, 10 at once", "fallback, for each", "for each item of a list, 10 at once and 1000 at most", "send parcel (for each, 10 at once)"} {
		require.Contains(t, page, text)
	}
}
