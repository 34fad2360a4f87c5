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

// The history of a saga can be shown without its definition.
func TestSagaPageWithoutRegisteredDefinition(t *testing.T) {
	deadline := time.Date(2026, 1, 2, 3, 4, 15, 0, time.UTC)
	asked := func(step string, branch cqrs.Branch) *saga.CommandSent {
		return &saga.CommandSent{Step: step, Branch: branch, Attempt: 1, CommandID: step, Deadline: deadline}
	}
	begin := saga.Started{Definition: "lending", Version: 1, Subject: "o-1", Steps: []string{"reserve book", "send book"}, Next: asked("reserve book", cqrs.BranchAction)}
	courier := asked("call courier", cqrs.BranchAction)
	courier.InsteadOf = "send book"
	for name, c := range map[string]struct {
		events []any
		shows  []string
	}{
		"just begun": {[]any{begin}, []string{"reserve book", "send book", "Version 1 of this definition is not registered"}},
		"completed": {[]any{begin, saga.StepCompleted{Step: "reserve book", CommandID: "reserve book", Next: asked("send book", cqrs.BranchAction)},
			saga.StepCompleted{Step: "send book", CommandID: "send book"}, saga.Completed{}}, []string{"All steps are completed", "send book"}},
		"by a fallback": {[]any{begin, saga.StepCompleted{Step: "reserve book", CommandID: "reserve book", Next: asked("send book", cqrs.BranchAction)},
			saga.StepRefused{Step: "send book", CommandID: "send book", Reason: "too heavy", Fallback: "call courier"}, *courier,
			saga.StepCompleted{Step: "call courier", CommandID: "call courier"}, saga.Completed{}}, []string{"call courier", "too heavy"}},
		"compensated": {[]any{begin, saga.StepCompleted{Step: "reserve book", CommandID: "reserve book", Next: asked("send book", cqrs.BranchAction)},
			saga.StepRefused{Step: "send book", CommandID: "send book", Reason: "too heavy"}, *asked("reserve book", cqrs.BranchCompensation),
			saga.StepCompensated{Step: "reserve book", CommandID: "u", Next: asked("say no", cqrs.BranchAction)},
			saga.StepCompleted{Step: "say no", CommandID: "say no"}, saga.Compensated{Reason: "too heavy"}}, []string{"say no", "compensate reserve book", "Compensated: too heavy."}},
	} {
		t.Run(name, func(t *testing.T) {
			var history []cqrs.Event
			for i, f := range c.events {
				history = append(history, cqrs.Event{Body: f, Meta: cqrs.Meta{Version: i + 1, Time: deadline.Add(time.Duration(i-10) * time.Second)}})
			}
			s := newServer(t)
			s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("History", func(context.Context, manager.History) ([]cqrs.Event, error) { return history, nil })})
			answer := serve(t, s, http.MethodGet, "/ui/sagas/01980000-0000-7000-8000-000000000000", "")
			require.Equal(t, http.StatusOK, answer.Code, answer.Body)
			for _, text := range c.shows {
				require.Contains(t, answer.Body.String(), text)
			}
		})
	}
}
