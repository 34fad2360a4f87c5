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

type (
	tripBegun struct{}
	tripData  struct{}
	verdict   struct {
		Damaged bool      `json:"damaged"`
		Note    string    `json:"note"`
		Pieces  int8      `json:"pieces"`
		At      time.Time `json:"arrived_at"`
		Photos  []byte    `json:"photos"`
	}
)

func signalling() *saga.Saga {
	return saga.New(saga.Definition[tripData]{
		Name: "returning", Version: 1, Start: saga.Event[tripBegun, tripData](),
		Steps: []saga.Step[tripData]{{Name: "inspect parcel", Timeout: time.Hour, Signal: &saga.Signal[tripData]{
			Name: "inspection", Roles: []string{"inspector"}, Received: saga.Event[verdict, tripData](),
		}}},
	})
}

// The page of a saga that waits for a signal of an operator has a form with the fields of the payload.
func TestSignalForm(t *testing.T) {
	const address = "/ui/sagas/01980000-0000-7000-8000-000000000000"
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	history := []cqrs.Event{
		{Body: saga.Started{Definition: "returning", Version: 1, Subject: "r", Steps: []string{"inspect parcel"}}, Meta: cqrs.Meta{Time: at}},
		{Body: saga.WaitStarted{Step: "inspect parcel", Deadline: at.Add(time.Hour), Signal: "inspection"}, Meta: cqrs.Meta{Time: at}},
	}
	var got verdict
	var fault error
	s := newServer(t)
	s.Registered.Sagas = []*saga.Saga{signalling()}
	s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("History", func(context.Context, manager.History) ([]cqrs.Event, error) { return history, nil })})
	s.Signal = func(_ context.Context, _, name string, decode func(any) error) error {
		require.Equal(t, "inspection", name)
		if fault != nil {
			return fault
		}
		return decode(&got)
	}
	page := serve(t, s, http.MethodGet, address, "").Body.String()
	for _, text := range []string{
		`The saga waits for the signal &#34;inspection&#34;, until 2026-01-02 04:04:05.`, `action="` + address + `/signals/inspection"`, `type="checkbox" id="inspection-damaged"`,
		`<input type="text" id="inspection-note" name="note">`, `<input type="number" id="inspection-pieces" name="pieces" required>`, "waits for the signal inspection until",
		`<label for="inspection-arrived_at">arrived at (UTC)</label> <input type="datetime-local" id="inspection-arrived_at" name="arrived_at" required>`,
	} {
		require.Contains(t, page, text)
	}
	require.NotContains(t, page, "photos")

	require.Contains(t, serve(t, s, http.MethodPost, address+"/signals/inspection", "note=ok").Body.String(), "Send the signal inspection to saga")
	answer := serve(t, s, http.MethodPost, address+"/signals/inspection", "sure=yes&damaged=yes&note=+a+scratch&pieces=2&arrived_at=2026-12-01T09:30")
	require.Equal(t, http.StatusSeeOther, answer.Code, answer.Body)
	require.Equal(t, verdict{Damaged: true, Note: "a scratch", Pieces: 2, At: time.Date(2026, 12, 1, 9, 30, 0, 0, time.UTC)}, got)
	require.Equal(t, http.StatusUnprocessableEntity, serve(t, s, http.MethodPost, address+"/signals/inspection", "sure=yes&pieces=999").Code)
	require.Contains(t, serve(t, s, http.MethodPost, address+"/signals/inspection", "sure=yes&pieces=2&arrived_at=soon").Body.String(), "arrived_at: must be a time, in UTC")
	fault = manager.ErrRole
	require.Equal(t, http.StatusForbidden, serve(t, s, http.MethodPost, address+"/signals/inspection", "sure=yes").Code)

	history = append(history, cqrs.Event{Body: saga.SignalReceived{Step: "inspect parcel", Signal: "inspection", By: "ada", Payload: []byte(`{"damaged":true}`)}, Meta: cqrs.Meta{Time: at}})
	page = serve(t, s, http.MethodGet, address, "").Body.String()
	require.Contains(t, page, `ada sent the signal inspection: {&#34;damaged&#34;:true}`)
	require.NotContains(t, page, "/signals/inspection")
}
