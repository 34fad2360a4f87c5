package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi/internal/operations"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

type (
	shipment struct{ Parcels int }
	packed   struct{ Parcels int }
	sent     struct{}
	refused  struct{}
	order    struct{}
)

func (order) Key() string { return "" }

// shipping sends parcels after its pivot, so a refused parcel is stuck.
func shipping(parcels, atOnce int) *sagatest.Run {
	command := func(shipment) cqrs.Keyed { return order{} }
	s := saga.New(saga.Definition[shipment]{
		Name: "shipping", Version: 1, Start: saga.On(func(d *shipment, e packed) { d.Parcels = e.Parcels }),
		Steps: []saga.Step[shipment]{
			{Name: "pay", Action: command, Completed: saga.Event[sent, shipment](), Timeout: time.Minute, Pivot: true},
			{
				Name: "send parcel", Action: command, Completed: saga.Event[sent, shipment](), Timeout: time.Minute, Retriable: true,
				Refused: []saga.Refusal{saga.RefusedBy(func(refused) string { return "locked" })},
				ForEach: &saga.ForEach[shipment]{
					Items: func(d shipment) int { return d.Parcels }, Item: func(d shipment, _ int) shipment { return d }, AtOnce: atOnce, Max: parcels,
				},
			},
		},
		OnCompensated: saga.FinalStep[shipment]{
			Name: "give up", Action: func(shipment, string) cqrs.Keyed { return order{} }, Completed: saga.Event[sent, shipment](), Timeout: time.Minute,
		},
	})
	return &sagatest.Run{Saga: s, State: saga.State{ID: "01980000-0000-7000-8000-000000000000"}, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func feed(t *testing.T, run *sagatest.Run, inputs ...any) {
	t.Helper()
	for _, in := range inputs {
		_, err := run.Feed(in)
		require.NoError(t, err)
	}
}

func item(n int, event any) sagatest.Reply {
	return sagatest.Reply{Step: fmt.Sprint("send parcel#", n), Event: event}
}

// A for-each step shows the numbers of its items by status, and lists the items in flight, stuck items first. Operators address items by their names.
func TestSagaWithAStepForEach(t *testing.T) {
	run := shipping(1000, 100)
	feed(t, run, packed{1000}, sent{}, item(1, sent{}), item(90, refused{}), item(100, refused{}))
	s := things()
	s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("SagaByID", func(context.Context, manager.ByID) (saga.State, error) { return run.State, nil })})
	s.Operate = func(_ context.Context, _ string, in saga.Input) error {
		_, err := run.Feed(in)
		return err
	}
	call := func(method, path, body string) (int, operations.Saga) {
		handler, err := s.Handler(Everything)
		require.NoError(t, err)
		r := httptest.NewRequestWithContext(t.Context(), method, "/v1/sagas/"+run.State.ID+path, strings.NewReader(body))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		var saga operations.Saga
		_ = json.Unmarshal(w.Body.Bytes(), &saga)
		return w.Code, saga
	}
	status, shown := call(http.MethodGet, "", "")
	require.Equal(t, http.StatusOK, status)
	step := shown.Steps[1]
	require.Equal(t, map[string]int{"completed": 1, "in_progress": 100, "waiting": 899}, *step.Items)
	require.True(t, *step.Stuck)
	require.Len(t, *step.InFlight, maxInFlight)
	names := make([]string, 3)
	for i := range names {
		names[i] = (*step.InFlight)[i].Name
	}
	require.Equal(t, []string{"send parcel#90", "send parcel#100", "send parcel#2"}, names)
	require.Equal(t, "locked", *(*step.InFlight)[0].Reason)
	require.Nil(t, shown.Steps[0].Items)
	require.Nil(t, shown.Steps[0].InFlight)

	status, _ = call(http.MethodPost, "/retry", `{"step":"send parcel"}`)
	require.Equal(t, http.StatusConflict, status, "it says which ones are stuck")
	status, shown = call(http.MethodPost, "/retry", `{"step":"send parcel#90"}`)
	require.Equal(t, http.StatusAccepted, status)
	require.Equal(t, 2, (*shown.Steps[1].InFlight)[0].Attempts)
	status, shown = call(http.MethodPost, "/skip", `{"step":"send parcel#100","reason":"by hand"}`)
	require.Equal(t, http.StatusAccepted, status)
	require.Equal(t, 2, (*shown.Steps[1].Items)["completed"])
	feed(t, run, item(90, sent{}))
	_, shown = call(http.MethodGet, "", "")
	require.Equal(t, operations.SagaStatus("running"), shown.Status)
	require.Nil(t, shown.Steps[1].Stuck)
}

// Every stuck item is listed, however many there are.
func TestSagaWithManyStuckItems(t *testing.T) {
	run := shipping(100, 100)
	feed(t, run, packed{100}, sent{})
	for n := range 80 {
		feed(t, run, item(n+1, refused{}))
	}
	require.Len(t, *toSaga(run.State).Steps[1].InFlight, 80)
}

func TestChildSagaNamesItsParent(t *testing.T) {
	shown := toSaga(saga.State{Parent: &saga.Parent{SagaID: "s-0", Step: "ship all"}})
	require.Equal(t, &operations.ParentSaga{SagaId: "s-0", Step: "ship all"}, shown.Parent)
}
