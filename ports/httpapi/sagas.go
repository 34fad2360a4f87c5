package httpapi

import (
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/sagas"
	"github.com/millrace/millrace/sagas/saga"
)

// ListSagas implements ServerInterface.
func (s *Server) ListSagas(w http.ResponseWriter, r *http.Request, params ListSagasParams) {
	p, err := page(params.Limit, params.Cursor)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	status, err := oneOf("status", params.Status, saga.Running, saga.Compensating, saga.IsCompleted, saga.IsCompensated, saga.Stuck)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	rows, err := app.AskFor(r.Context(), s.Queries, sagas.List{Status: status, Page: query.Page{Before: p.Before, Limit: p.Limit + 1}})
	if err != nil {
		s.problem(w, r, err)
		return
	}
	rows, next := more(rows, p, func(s saga.State) app.Cursor { return app.Cursor{At: s.StartedAt, ID: s.ID} })
	list := SagaList{Sagas: make([]Saga, len(rows)), NextCursor: next}
	for i, state := range rows {
		list.Sagas[i] = toSaga(state)
	}
	respond(w, http.StatusOK, list)
}

// GetSaga implements ServerInterface.
func (s *Server) GetSaga(w http.ResponseWriter, r *http.Request, id Id) {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		message := "is not a saga's id"
		s.problem(w, r, &fault{http.StatusNotFound, fmt.Sprintf("%.80q %s", id, message), []FieldError{{Field: "id", Message: message}}})
		return
	}
	state, err := app.AskFor(r.Context(), s.Queries, sagas.ByID{ID: id})
	if err != nil {
		s.problem(w, r, err)
		return
	}
	respond(w, http.StatusOK, toSaga(state))
}

func toSaga(s saga.State) Saga {
	out := Saga{
		SagaId: s.ID, Definition: s.Definition, DefinitionVersion: s.DefVersion, Subject: s.Subject, Status: SagaStatus(s.Status),
		StartedAt: s.StartedAt.UTC(), EndedAt: s.EndedAt, Steps: []Step{},
	}
	if s.Reason != "" {
		out.Reason = &s.Reason
	}
	for _, step := range s.Steps {
		st := Step{
			Name: step.Name, Status: StepStatus(step.Status), Attempts: step.Attempts, StartedAt: step.StartedAt, EndedAt: step.EndedAt,
			Deadline: step.Deadline,
		}
		if step.Reason != "" {
			st.Reason = &step.Reason
		}
		out.Steps = append(out.Steps, st)
	}
	return out
}
