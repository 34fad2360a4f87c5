package api

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// ListDeadLetters implements ServerInterface.
func (s *Server) ListDeadLetters(w http.ResponseWriter, r *http.Request, params ListDeadLettersParams) {
	p, err := page(params.Limit, params.Cursor)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	rows, err := s.Letters.List(r.Context(), p.Before, p.Limit+1)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	rows, next := more(rows, p, func(l cqrs.DeadLetter) cqrs.Cursor { return cqrs.Cursor{At: l.First, ID: l.ID} })
	list := DeadLetterList{DeadLetters: make([]DeadLetter, len(rows)), NextCursor: next}
	for i, l := range rows {
		list.DeadLetters[i] = toDeadLetter(l)
	}
	respond(w, http.StatusOK, list)
}

// GetDeadLetter implements ServerInterface.
func (s *Server) GetDeadLetter(w http.ResponseWriter, r *http.Request, id Id) {
	l, err := s.Letters.ByID(r.Context(), id)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	respond(w, http.StatusOK, toDeadLetter(l))
}

// RedriveDeadLetter implements ServerInterface.
func (s *Server) RedriveDeadLetter(w http.ResponseWriter, r *http.Request, id Id, _ RedriveDeadLetterParams) {
	if err := httpapi.NoBody(w, r); err != nil {
		s.problem(w, r, err)
		return
	}
	s.takeLetter(w, r, id, func() error {
		defer s.Wake()
		return s.Letters.Redrive(r.Context(), id)
	})
}

// DropDeadLetter implements ServerInterface.
func (s *Server) DropDeadLetter(w http.ResponseWriter, r *http.Request, id Id, params DropDeadLetterParams) {
	reason := "no reason given"
	if params.Reason != nil {
		reason = *params.Reason
	}
	s.takeLetter(w, r, id, func() error {
		if len(reason) > 500 {
			return httpapi.Invalid(http.StatusUnprocessableEntity, "reason", "must be at most 500 characters")
		}
		defer s.Wake()
		return s.Letters.Drop(r.Context(), id, cqrs.PrincipalOf(r.Context()).Subject, reason)
	})
}

func (s *Server) takeLetter(w http.ResponseWriter, r *http.Request, id string, take func() error) {
	l, err := s.Letters.ByID(r.Context(), id)
	if err == nil {
		err = take()
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	respond(w, http.StatusAccepted, AcceptedLetter{Id: l.ID, MessageId: l.MessageID})
}

func toDeadLetter(l cqrs.DeadLetter) DeadLetter {
	out := DeadLetter{
		Id: l.ID, Consumer: l.Consumer, MessageId: l.MessageID, Topic: l.Topic, Key: l.Key, Headers: l.Headers,
		Payload: strings.ToValidUTF8(string(l.Payload), "\uFFFD"), Reason: l.Reason, Attempts: l.Attempts, FirstAt: l.First, LastAt: l.Last,
	}
	if l.Stack != "" {
		out.Stack = &l.Stack
	}
	return out
}

// ListBreakers implements ServerInterface.
func (s *Server) ListBreakers(w http.ResponseWriter, _ *http.Request) {
	list := BreakerList{Breakers: []Breaker{}}
	for _, b := range s.Breakers() {
		out := Breaker{Name: b.Name, State: BreakerState(b.State), Requests: b.Requests, Failures: b.Failures}
		if !b.OpenedAt.IsZero() {
			out.OpenedAt = &b.OpenedAt
		}
		list.Breakers = append(list.Breakers, out)
	}
	respond(w, http.StatusOK, list)
}

// GetOutbox implements ServerInterface.
func (s *Server) GetOutbox(w http.ResponseWriter, r *http.Request) {
	backlog, err := s.Outbox(r.Context())
	if err != nil {
		s.problem(w, r, err)
		return
	}
	topics := make([]SuspendedTopic, len(backlog.Topics))
	for i, t := range backlog.Topics {
		topics[i] = SuspendedTopic{Topic: t.Topic, Reason: t.Reason, Since: t.Since.UTC(), NextTry: t.NextTry.UTC(), Attempts: t.Attempts}
	}
	respond(w, http.StatusOK, Outbox{
		Pending: backlog.Pending, OldestAgeSeconds: float32(backlog.Oldest), Delayed: backlog.Delayed, Parked: backlog.Parked,
		Suspended: backlog.Suspended, SuspendedTopics: topics,
	})
}
