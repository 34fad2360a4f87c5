package httpapi

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi/internal/operations"
)

// ListDeadLetters implements operations.ServerInterface.
func (h *handlers) ListDeadLetters(w http.ResponseWriter, r *http.Request, params operations.ListDeadLettersParams) {
	p, err := Page(params.Limit, params.Cursor)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rows, err := h.DeadLetters.List(r.Context(), p.Before, p.Limit+1)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rows, next := More(rows, p, func(l cqrs.DeadLetter) cqrs.Cursor { return cqrs.Cursor{At: l.First, ID: l.ID} })
	list := operations.DeadLetterList{DeadLetters: make([]operations.DeadLetter, len(rows)), NextCursor: next}
	for i, l := range rows {
		list.DeadLetters[i] = toDeadLetter(l)
	}
	Respond(w, http.StatusOK, list)
}

// GetDeadLetter implements operations.ServerInterface.
func (h *handlers) GetDeadLetter(w http.ResponseWriter, r *http.Request, id operations.Id) {
	l, err := h.DeadLetters.ByID(r.Context(), id)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	Respond(w, http.StatusOK, toDeadLetter(l))
}

// RedriveDeadLetter implements operations.ServerInterface.
func (h *handlers) RedriveDeadLetter(w http.ResponseWriter, r *http.Request, id operations.Id, _ operations.RedriveDeadLetterParams) {
	if err := NoBody(w, r); err != nil {
		h.fail(w, r, err)
		return
	}
	h.takeDeadLetter(w, r, id, func() error {
		defer h.Wake()
		return h.DeadLetters.Replay(r.Context(), id)
	})
}

// DropDeadLetter implements operations.ServerInterface.
func (h *handlers) DropDeadLetter(w http.ResponseWriter, r *http.Request, id operations.Id, params operations.DropDeadLetterParams) {
	reason := "no reason given"
	if params.Reason != nil {
		reason = *params.Reason
	}
	h.takeDeadLetter(w, r, id, func() error {
		if len(reason) > 500 {
			return Invalid(http.StatusUnprocessableEntity, "reason", "must be at most 500 characters")
		}
		defer h.Wake()
		return h.DeadLetters.Drop(r.Context(), id, cqrs.PrincipalFromContext(r.Context()).Subject, reason)
	})
}

func (h *handlers) takeDeadLetter(w http.ResponseWriter, r *http.Request, id string, take func() error) {
	l, err := h.DeadLetters.ByID(r.Context(), id)
	if err == nil {
		err = take()
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	Respond(w, http.StatusAccepted, operations.AcceptedLetter{Id: l.ID, MessageId: l.MessageID})
}

func toDeadLetter(l cqrs.DeadLetter) operations.DeadLetter {
	out := operations.DeadLetter{
		Id: l.ID, Consumer: l.Consumer, MessageId: l.MessageID, Topic: l.Topic, Key: l.Key, Headers: l.Headers,
		Payload: strings.ToValidUTF8(string(l.Payload), "\uFFFD"), Reason: l.Reason, Attempts: l.Attempts, FirstAt: l.First, LastAt: l.Last,
	}
	if l.Stack != "" {
		out.Stack = &l.Stack
	}
	return out
}
