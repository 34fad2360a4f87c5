package opsui

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// The pages of a parent saga and of its child saga link to each other.
func TestSagaPageOfParentAndChild(t *testing.T) {
	child := shipping()
	child.Start = saga.ByParent(func(d *shipment, e packed) { d.Parcels = e.Parcels })
	parent := saga.New(saga.Definition[shipment]{
		Name: "selling", Version: 1, Start: saga.On(func(d *shipment, e packed) { d.Parcels = e.Parcels }),
		Steps: []saga.Step[shipment]{{
			Name: "ship all", Timeout: time.Hour, Child: saga.ChildOf(child, func(d shipment, _ int) packed { return packed(d) }, nil),
		}},
		OnCompensated: shipping().OnCompensated,
	})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sent := saga.CommandSent{Step: "ship all", Branch: cqrs.BranchAction, Attempt: 1, CommandID: "c-1", Deadline: at.Add(time.Hour)}
	s := newServer(t)
	s.Registered.Sagas = []*saga.Saga{parent}
	const id = "01980000-0000-7000-8000-000000000000"
	started := saga.Started{Definition: "selling", Version: 1, Subject: "o-1", Steps: []string{"ship all"}, Next: &sent}
	s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("History", func(context.Context, manager.History) ([]cqrs.Event, error) {
		return []cqrs.Event{{Body: started, Meta: cqrs.Meta{Time: at}}}, nil
	})})
	page := func(path string) string { return serve(t, s, http.MethodGet, path, "").Body.String() }
	state := saga.State{ID: id}
	require.Contains(t, page("/ui/sagas/"+id), `<a href="/ui/sagas/`+state.ChildID("ship all")+`">`)
	for _, text := range []string{"saga shipping", "starts the saga <code>shipping</code>"} {
		require.Contains(t, page("/ui/definitions/selling.v1"), text)
	}

	started.Parent = &saga.Parent{SagaID: "01980000-0000-7000-8000-000000000001", Step: "sell", Root: id}
	for _, text := range []string{`child of <a href="/ui/sagas/01980000-0000-7000-8000-000000000001">`, "started for o-1 by the step sell of saga …000000000001"} {
		require.Contains(t, page("/ui/sagas/"+id), text)
	}
}
