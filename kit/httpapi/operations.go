package httpapi

import (
	"fmt"
	"net/http"

	"github.com/millrace/millrace/kit/httpapi/internal/operations"
)

// handlers implements operations.ServerInterface: the operations API.
type handlers struct {
	*Server
	document []byte // served at /openapi.yaml
}

// ListBreakers implements operations.ServerInterface.
func (h *handlers) ListBreakers(w http.ResponseWriter, _ *http.Request) {
	list := operations.BreakerList{Breakers: []operations.Breaker{}}
	for _, b := range h.Breakers() {
		out := operations.Breaker{Name: b.Name, State: operations.BreakerState(b.State), Requests: b.Requests, Failures: b.Failures}
		if !b.OpenedAt.IsZero() {
			out.OpenedAt = &b.OpenedAt
		}
		list.Breakers = append(list.Breakers, out)
	}
	Respond(w, http.StatusOK, list)
}

// GetOutbox implements operations.ServerInterface.
func (h *handlers) GetOutbox(w http.ResponseWriter, r *http.Request) {
	backlog, err := h.Outbox(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	topics := make([]operations.SuspendedTopic, len(backlog.Topics))
	for i, t := range backlog.Topics {
		topics[i] = operations.SuspendedTopic{Topic: t.Topic, Reason: t.Reason, Since: t.Since.UTC(), NextTry: t.NextTry.UTC(), Attempts: t.Attempts}
	}
	Respond(w, http.StatusOK, operations.Outbox{
		Pending: backlog.Pending, OldestAgeSeconds: float32(backlog.Oldest), Delayed: backlog.Delayed, Parked: backlog.Blocked,
		Suspended: backlog.Suspended, SuspendedTopics: topics,
	})
}

// GetSandbox implements operations.ServerInterface.
func (h *handlers) GetSandbox(w http.ResponseWriter, r *http.Request, service string) {
	h.sandbox(w, r, service)
}

// PutSandbox implements operations.ServerInterface.
func (h *handlers) PutSandbox(w http.ResponseWriter, r *http.Request, service string) {
	h.sandbox(w, r, service)
}

func (h *handlers) sandbox(w http.ResponseWriter, r *http.Request, service string) {
	if h.Sandbox == nil {
		h.fail(w, r, &RequestError{Status: http.StatusNotFound, Detail: fmt.Sprintf("no sandbox runs here, so there is none of %q", service)})
		return
	}
	h.Sandbox.ServeHTTP(w, r)
}
