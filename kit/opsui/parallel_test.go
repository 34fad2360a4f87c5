package opsui

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Parallel steps are drawn between bars, the saga waits for all of them at once, and operators decide about each one separately.
func TestSagaPageWithParallelSteps(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	asked := func(step string, branch cqrs.Branch) saga.CommandSent {
		return saga.CommandSent{Step: step, Branch: branch, Attempt: 1, CommandID: step, Deadline: start.Add(time.Minute)}
	}
	facts := []any{
		saga.Started{Definition: "trip", Version: 1, Subject: "t-1", Steps: []string{"hold seat", "hold room", "pay"}, Stages: []int32{1, 1, 2}},
		saga.CommandsSent{Sent: []saga.CommandSent{asked("hold seat", cqrs.BranchAction), asked("hold room", cqrs.BranchAction)}},
	}
	page := func(facts ...any) string {
		var history []cqrs.Event
		for i, f := range facts {
			history = append(history, cqrs.Event{Body: f, Meta: cqrs.Meta{Version: i + 1, Time: start.Add(time.Duration(i) * time.Second)}})
		}
		s := newServer(t)
		s.Queries = cqrs.NewQueries([]cqrs.QueryHandler{cqrs.HandleQuery("History", func(context.Context, manager.History) ([]cqrs.Event, error) { return history, nil })})
		answer := serve(t, s, http.MethodGet, "/ui/sagas/01980000-0000-7000-8000-000000000000", "")
		require.Equal(t, http.StatusOK, answer.Code, answer.Body)
		return answer.Body.String()
	}
	running := page(facts...)
	require.Contains(t, running, `The saga waits for the result of &#34;hold seat&#34; and the result of &#34;hold room&#34;.`)
	require.Contains(t, running, "in parallel")
	require.Equal(t, 2, strings.Count(running, `class="way bar`), "a fork and a join")

	facts = append(facts, saga.StepTimedOut{Step: "hold seat"},
		saga.CommandsSent{Sent: []saga.CommandSent{asked("hold room", cqrs.BranchCompensation), asked("hold seat", cqrs.BranchCompensation)}},
		saga.NeedsIntervention{Step: "hold room", Reason: "locked"})
	one := page(facts...)
	require.Contains(t, one, `id="skip-reason"`)
	require.Contains(t, one, `! stuck</text>`, "the box of the compensation")
	require.Contains(t, one, `<span aria-hidden="true">?</span> in doubt</span>`, "the action of hold room was in flight")
	require.Contains(t, one, `<input type="hidden" name="step" value="hold room">`)
	two := page(append(facts, saga.NeedsIntervention{Step: "hold seat", Reason: "shut"})...)
	for _, text := range []string{`id="skip-reason-0"`, `id="skip-reason-1"`, "Last failure: locked.", "Last failure: shut.", `value="hold seat"`, "compensate hold seat"} {
		require.Contains(t, two, text)
	}
}
