package api

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
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
	rows, err := cqrs.AskFor(r.Context(), s.Queries, manager.List{Status: status, Page: cqrs.Page{Before: p.Before, Limit: p.Limit + 1}})
	if err != nil {
		s.problem(w, r, err)
		return
	}
	rows, next := more(rows, p, func(s saga.State) cqrs.Cursor { return cqrs.Cursor{At: s.StartedAt, ID: s.ID} })
	list := SagaList{Sagas: make([]Saga, len(rows)), NextCursor: next}
	for i, state := range rows {
		list.Sagas[i] = toSaga(state)
	}
	respond(w, http.StatusOK, list)
}

// GetSaga implements ServerInterface.
func (s *Server) GetSaga(w http.ResponseWriter, r *http.Request, id Id) {
	s.showSaga(w, r, http.StatusOK, id)
}

func (s *Server) showSaga(w http.ResponseWriter, r *http.Request, status int, id string) {
	err := checkID("saga", id)
	var state saga.State
	if err == nil {
		state, err = cqrs.AskFor(r.Context(), s.Queries, manager.ByID{ID: id})
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	respond(w, status, toSaga(state))
}

// RetrySaga implements ServerInterface.
func (s *Server) RetrySaga(w http.ResponseWriter, r *http.Request, id Id, _ RetrySagaParams) {
	s.operate(w, r, id, func(by, _ string) saga.Input { return saga.Retry{By: by} }, false)
}

// SkipSagaStep implements ServerInterface.
func (s *Server) SkipSagaStep(w http.ResponseWriter, r *http.Request, id Id, _ SkipSagaStepParams) {
	s.operate(w, r, id, func(by, reason string) saga.Input { return saga.Skip{By: by, Reason: reason} }, true)
}

// ResolveSaga implements ServerInterface.
func (s *Server) ResolveSaga(w http.ResponseWriter, r *http.Request, id Id, _ ResolveSagaParams) {
	s.operate(w, r, id, func(by, reason string) saga.Input { return saga.Resolve{By: by, Reason: reason} }, true)
}

func (s *Server) operate(w http.ResponseWriter, r *http.Request, id string, input func(by, reason string) saga.Input, needsReason bool) {
	var request struct {
		Reason string `json:"reason"`
	}
	err := checkID("saga", id)
	if err == nil && !needsReason {
		err = httpapi.NoBody(w, r)
	}
	if err == nil && needsReason {
		if err = decode(w, r, &request); err == nil && (strings.TrimSpace(request.Reason) == "" || len(request.Reason) > 500) {
			err = httpapi.Invalid(http.StatusUnprocessableEntity, "reason", "must be 1 to 500 characters")
		}
	}
	if err == nil {
		err = s.Operate(r.Context(), id, input(cqrs.PrincipalOf(r.Context()).Subject, request.Reason))
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	s.showSaga(w, r, http.StatusAccepted, id)
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
		if step.InsteadOf != "" {
			st.InsteadOf = &step.InsteadOf
		}
		out.Steps = append(out.Steps, st)
	}
	return out
}
