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

// A step that waits for an event shows the event and its key, and later how the wait ended.
func TestSagaPageWithAnAwaitedEvent(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	history := []cqrs.Event{
		{Body: saga.Started{Definition: "returning", Version: 1, Subject: "r", Steps: []string{"wait there"}}, Meta: cqrs.Meta{Time: at}},
		{Body: saga.WaitStarted{Step: "wait there", Deadline: at.Add(time.Hour), Event: "opsui.parcelCame", Key: "p-7"}, Meta: cqrs.Meta{Time: at}},
	}
	s := newServer(t)
	registered := saga.New(saga.Definition[tripData]{
		Name: "returning", Version: 1, Start: saga.Event[tripBegun, tripData](),
		Steps: []saga.Step[tripData]{{
			Name: "wait there", Timeout: 2 * time.Hour, Reminder: &saga.Reminder[tripData]{After: time.Hour, Action: func(tripData) cqrs.Keyed { return order{"remind"} }},
			Await: &saga.Await[tripData]{Received: saga.Event[parcelCame, tripData](), Key: func(tripData) string { return "p-7" }, Optional: true},
		}},
	})
	s.Registered.Sagas = []*saga.Saga{registered}
	s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("History", func(context.Context, manager.History) ([]cqrs.Event, error) { return history, nil })})
	page := func(path string, shows ...string) {
		t.Helper()
		got := serve(t, s, http.MethodGet, path, "").Body.String()
		for _, text := range shows {
			require.Contains(t, got, text)
		}
	}
	const address = "/ui/sagas/01980000-0000-7000-8000-000000000000"
	page(address, `The saga waits for the event opsui.parcelCame of p-7, until 2026-01-02 05:04:05, with a reminder at 2026-01-02 04:04:05.`,
		"wait there: waits for the event opsui.parcelCame of p-7 until 2026-01-02 05:04:05, with a reminder at 2026-01-02 04:04:05", `deadline <time datetime="2026-01-02T05:04:05`)
	history = append(history, cqrs.Event{Body: saga.ReminderSent{Step: "wait there", Deadline: at.Add(2 * time.Hour)}, Meta: cqrs.Meta{Time: at.Add(time.Hour)}})
	page(address, `The saga waits for the event opsui.parcelCame of p-7, until 2026-01-02 05:04:05.`, "wait there: reminder sent, waits until 2026-01-02 05:04:05")
	history = append(history, cqrs.Event{Body: saga.EventReceived{Step: "wait there", Event: "opsui.parcelCame", MessageID: "m-1"}, Meta: cqrs.Meta{Time: at.Add(time.Hour)}})
	page(address, "wait there: the event opsui.parcelCame has come", "message m-1")
	page("/ui/definitions/returning.v1", "waits for the event <code>opsui.parcelCame</code>", "reminder after 1h0m", "the saga goes on when the time is up", "event parcelCame")
}

type parcelCame struct{}
