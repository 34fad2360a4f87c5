package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi/internal/operations"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// ListSagas implements operations.ServerInterface.
func (h *handlers) ListSagas(w http.ResponseWriter, r *http.Request, params operations.ListSagasParams) {
	p, err := Page(params.Limit, params.Cursor)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	status, err := OneOf("status", params.Status, saga.StatusRunning, saga.StatusCompensating, saga.StatusCompleted, saga.StatusCompensated, saga.StatusStuck)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rows, err := cqrs.Execute(r.Context(), h.Queries, manager.List{Status: status, Page: cqrs.Page{Before: p.Before, Limit: p.Limit + 1}})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rows, next := More(rows, p, func(s saga.State) cqrs.Cursor { return cqrs.Cursor{At: s.StartedAt, ID: s.ID} })
	list := operations.SagaList{Sagas: make([]operations.Saga, len(rows)), NextCursor: next}
	for i, state := range rows {
		list.Sagas[i] = toSaga(state)
	}
	Respond(w, http.StatusOK, list)
}

// GetSaga implements operations.ServerInterface.
func (h *handlers) GetSaga(w http.ResponseWriter, r *http.Request, id operations.Id) {
	h.showSaga(w, r, http.StatusOK, id)
}

func (h *handlers) showSaga(w http.ResponseWriter, r *http.Request, status int, id string) {
	err := CheckID("a saga", id)
	var state saga.State
	if err == nil {
		state, err = cqrs.Execute(r.Context(), h.Queries, manager.ByID{ID: id})
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	Respond(w, status, toSaga(state))
}

// RetrySaga implements operations.ServerInterface.
func (h *handlers) RetrySaga(w http.ResponseWriter, r *http.Request, id operations.Id, _ operations.RetrySagaParams) {
	h.operate(w, r, id, func(by, _, step string) saga.Input { return saga.Retry{By: by, Step: step} }, false)
}

// SkipSagaStep implements operations.ServerInterface.
func (h *handlers) SkipSagaStep(w http.ResponseWriter, r *http.Request, id operations.Id, _ operations.SkipSagaStepParams) {
	h.operate(w, r, id, func(by, reason, step string) saga.Input { return saga.Skip{By: by, Reason: reason, Step: step} }, true)
}

// ResolveSaga implements operations.ServerInterface.
func (h *handlers) ResolveSaga(w http.ResponseWriter, r *http.Request, id operations.Id, _ operations.ResolveSagaParams) {
	h.operate(w, r, id, func(by, reason, step string) saga.Input { return saga.Resolve{By: by, Reason: reason, Step: step} }, true)
}

// SignalSaga implements operations.ServerInterface.
func (h *handlers) SignalSaga(w http.ResponseWriter, r *http.Request, id operations.Id, name string, _ operations.SignalSagaParams) {
	var body []byte
	err := CheckID("a saga", id)
	if err == nil {
		err = checkType(r)
	}
	if err == nil {
		body, err = ReadBody(w, r)
	}
	if err == nil { // the payload may be decoded more than once, after a conflict
		err = h.Signal(r.Context(), id, name, func(payload any) error { return DecodeBytes(body, payload) })
	}
	if errors.Is(err, manager.ErrRole) {
		err = &RequestError{Status: http.StatusForbidden, Detail: err.Error()}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.showSaga(w, r, http.StatusAccepted, id)
}

func (h *handlers) operate(w http.ResponseWriter, r *http.Request, id string, input func(by, reason, step string) saga.Input, needsReason bool) {
	reason, step, err := "", "", CheckID("a saga", id)
	if err == nil {
		reason, step, err = decision(w, r, needsReason)
	}
	if err == nil {
		err = h.Operate(r.Context(), id, input(cqrs.PrincipalFromContext(r.Context()).Subject, reason, step))
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.showSaga(w, r, http.StatusAccepted, id)
}

// decision reads the body of an operator's decision: the step and, if needsReason is set, the reason.
func decision(w http.ResponseWriter, r *http.Request, needsReason bool) (reason, step string, err error) {
	var about struct {
		Step string `json:"step"`
	}
	var request struct {
		Reason string `json:"reason"`
		Step   string `json:"step"`
	}
	if needsReason {
		err = Decode(w, r, &request)
	} else {
		err = DecodeOptional(w, r, &about)
		request.Step = about.Step
	}
	switch {
	case err != nil:
	case needsReason && (strings.TrimSpace(request.Reason) == "" || len(request.Reason) > maxReason):
		err = Invalid(http.StatusUnprocessableEntity, "reason", "must be 1 to 500 characters")
	case len(request.Step) > maxStep:
		err = Invalid(http.StatusUnprocessableEntity, "step", "must be at most 200 characters")
	}
	return request.Reason, request.Step, err
}

const (
	maxReason = 500
	maxStep   = 200
)

// Saga returns the state of a saga. If no saga has this id, it returns the zero State, because the saga may start later.
func (a *API) Saga(ctx context.Context, id string) (saga.State, error) {
	state, err := cqrs.Execute(ctx, a.Queries, manager.ByID{ID: id})
	if errors.Is(err, cqrs.ErrNotFound) {
		return saga.State{}, nil
	}
	return state, err
}

// SagaPart returns the part of a Snapshot that shows a saga, in the format of GET /v1/sagas/{id}.
func SagaPart(state saga.State) Part {
	return Part{Event: "saga", Version: state.Version, Data: toSaga(state)}
}

func toSaga(s saga.State) operations.Saga {
	out := operations.Saga{
		SagaId: s.ID, Definition: s.Definition, DefinitionVersion: s.DefVersion, Subject: s.Subject, Status: operations.SagaStatus(s.Status),
		StartedAt: s.StartedAt.UTC(), EndedAt: s.EndedAt, Steps: []operations.Step{},
	}
	if s.Reason != "" {
		out.Reason = &s.Reason
	}
	if s.Parent != nil {
		out.Parent = &operations.ParentSaga{SagaId: s.Parent.SagaID, Step: s.Parent.Step}
	}
	for i := range s.Steps {
		out.Steps = append(out.Steps, toStep(&s, &s.Steps[i]))
	}
	return out
}

// maxUnmatched limits the number of events that ListUnmatchedEvents returns.
const maxUnmatched = 100

// ListUnmatchedEvents implements operations.ServerInterface.
func (h *handlers) ListUnmatchedEvents(w http.ResponseWriter, r *http.Request) {
	kept, err := h.Unmatched(r.Context(), maxUnmatched)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	list := operations.UnmatchedEventList{Events: make([]operations.UnmatchedEvent, len(kept))}
	for i, k := range kept {
		e := operations.UnmatchedEvent{Definition: k.Definition, Event: k.Event, Key: k.Key, MessageId: k.MessageID, HappenedAt: k.HappenedAt.UTC(), ReceivedAt: k.ReceivedAt.UTC()}
		if err := json.Unmarshal(k.Body, &e.Body); err != nil { // the body of an event may be another JSON value than an object
			e.Body = map[string]any{"value": k.Body}
		}
		list.Events[i] = e
	}
	Respond(w, http.StatusOK, list)
}

// maxInFlight limits the number of items of a step that are listed although they are not stuck.
const maxInFlight = 50

func toStep(s *saga.State, step *saga.StepState) operations.Step {
	st := operations.Step{
		Name: step.Name, Status: operations.StepStatus(step.Status), Attempts: step.Attempts, StartedAt: step.StartedAt, EndedAt: step.EndedAt, Deadline: step.Deadline,
	}
	if step.Reason != "" {
		st.Reason = &step.Reason
	}
	if step.InsteadOf != "" {
		st.InsteadOf = &step.InsteadOf
	}
	if step.Stage > 0 {
		stage := int(step.Stage)
		st.Stage = &stage
	}
	if signal, waits := s.Signals[step.Name]; waits {
		st.Signal = &signal
	}
	if event, waits := s.Awaits[step.Name]; waits {
		st.Event, st.EventKey = &event.Event, &event.Key
	}
	if step.Stuck {
		st.Stuck = &step.Stuck
	}
	if len(step.Items) > 0 {
		addItems(s, step, &st)
	}
	return st
}

// addItems adds the number of a step's items by their status, and the stuck items and items in flight.
func addItems(s *saga.State, step *saga.StepState, st *operations.Step) {
	counts := map[string]int{}
	for status, n := range step.Counts {
		if n > 0 {
			counts[string(status)] = n
		}
	}
	var stuck, others []operations.Step
	for i := range step.Items {
		switch item := &step.Items[i]; {
		case item.Stuck:
			stuck = append(stuck, toStep(s, item))
		case item.InFlight() && len(others) < maxInFlight:
			others = append(others, toStep(s, item))
		}
	}
	st.Items = &counts
	if len(stuck) > 0 {
		needed := true
		st.Stuck = &needed
	}
	if all := append(stuck, others[:min(len(others), max(maxInFlight-len(stuck), 0))]...); len(all) > 0 {
		st.InFlight = &all
	}
}
