package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi/internal/operations"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Server serves the routes of a service and the operations API. Its pointers, interfaces and functions are required unless their comment says otherwise.
type Server struct {
	// Service has the routes of the service. Nil: only the operations API is served.
	Service *Service

	Commands    cqrs.Commands
	UnitOfWork  cqrs.UnitOfWork
	Queries     *cqrs.Queries
	Idempotency IdempotencyStore
	DeadLetters DeadLetterStore
	Log         *slog.Logger

	// Operate applies the decision of an operator to a stuck saga: saga.Retry, saga.Skip or saga.Resolve.
	Operate func(ctx context.Context, sagaID string, in saga.Input) error

	// Signal sends a signal to a saga. Decode reads the payload into a pointer.
	Signal func(ctx context.Context, sagaID, name string, decode func(payload any) error) error

	// Unmatched returns the newest events that no saga waits for, at most atMost.
	Unmatched func(ctx context.Context, atMost int) ([]manager.UnmatchedEvent, error)

	// Watch returns a channel that receives a value after commits of this instance to one of these streams of the event store.
	Watch func(streams ...string) (changes <-chan struct{}, stop func())

	// Wake makes the relay read the outbox at once.
	Wake func()

	Breakers func() []cqrs.Breaker
	Outbox   func(ctx context.Context) (cqrs.Backlog, error)
	Ready    func(ctx context.Context) []cqrs.Check
	Metrics  http.Handler
	AsyncAPI []byte // the AsyncAPI document

	// Sandbox handles requests to the fault settings of the stand-ins of external services. Nil: no sandbox runs in this instance.
	Sandbox http.Handler

	// Verify verifies bearer tokens. Nil: requests need no token, and their principal is cqrs.Guest.
	Verify Verify

	// RateLimit limits how many requests a client may send in a second; 0: no limit.
	RateLimit int

	// Hosts are the names that a request may have as Host if Verify is nil, in addition to loopback names; "*" allows any name.
	Hosts []string

	// Proxies are the addresses of trusted proxies, whose X-Forwarded-For and X-Forwarded-Proto are used.
	Proxies []netip.Prefix

	// Streams limits the number of open event streams.
	Streams *Streams

	// OnPanic is called each time a handler panics. Optional.
	OnPanic func()

	// OnRequest is called after every request. Optional.
	OnRequest func(method, route string, status int, took time.Duration)

	// Stopping is closed when the service stops. Event streams and requests that wait for an outcome end then.
	Stopping <-chan struct{}
}

// DeadLetterStore stores dead letters. The error of ByID, Replay and Drop wraps cqrs.ErrNotFound if there is no dead letter with the id.
type DeadLetterStore interface {
	List(ctx context.Context, before cqrs.Cursor, limit int) ([]cqrs.DeadLetter, error)
	ByID(ctx context.Context, id string) (cqrs.DeadLetter, error)
	Replay(ctx context.Context, id string) error
	Drop(ctx context.Context, id, by, reason string) error
}

// Mount is a handler beside the API, such as the pages. The server does not authenticate its requests: the handler must check tokens itself if it
// needs them.
type Mount struct {
	Pattern   string // in the syntax of chi
	Handler   http.Handler
	Operators bool // served only on listeners that serve operators
}

// Handler returns the handler of a listener, with the routes that serves selects. The functions in more return additional handlers. The error names
// faults of the specifications: operations without x-access, operations that the service's document and operations.yaml both have, components that
// differ in both, and operations that WaitFor names but no document has.
func (s *Server) Handler(serves Serves, more ...func() []Mount) (http.Handler, error) {
	spec, err := s.specification()
	if err != nil {
		return nil, err
	}
	r := chi.NewRouter()
	routes := &routes{router: r, operations: spec.operations, mounts: map[string]Mount{}, serves: serves}
	api := &API{Router: r, Commands: s.Commands, Queries: s.Queries, Fail: s.fail, server: s, waits: map[string]Wait{}}
	border := &Border{CheckHost: s.Verify == nil, Hosts: s.Hosts, Proxies: s.Proxies, Log: s.Log, OnPanic: s.OnPanic, Fail: s.fail}
	// A page of another site must not send requests that change something through the browser of its visitor.
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &RequestError{Status: http.StatusForbidden, Detail: "requests from pages of other sites are refused"})
	}))
	once := &Idempotency{UnitOfWork: s.UnitOfWork, Store: s.Idempotency, Committed: s.Wake, Fail: s.fail}
	limit := s.limit()
	// The order matters. Cheap checks that refuse a request come first. The handler and the record of its idempotency key are innermost, in one unit of
	// work, so that Prefer: wait begins to wait after the commit of that unit of work.
	r.Use(middleware.RequestID, s.begin, border.Recover, secure, border.Enter, foreign.Handler, s.route(routes), s.authenticate(limit), limit, api.waiting, forOperations(finite), forOperations(once.Handler))
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &RequestError{Status: http.StatusNotFound, Detail: "there is nothing at " + r.URL.Path})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &RequestError{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not possible at " + r.URL.Path})
	})
	if s.Service != nil && s.Service.Mount != nil {
		s.Service.Mount(api)
	}
	for operation := range api.waits {
		if _, known := spec.operations[operation]; !known {
			return nil, fmt.Errorf("openapi.yaml has no operation %q, which WaitFor was called with", operation)
		}
	}
	operations.HandlerWithOptions(&handlers{s, spec.document}, operations.ChiServerOptions{BaseRouter: r, ErrorHandlerFunc: api.FailParameter})
	for _, mounts := range append(more, func() []Mount { return s.documents(spec.title) }) {
		for _, m := range mounts() {
			r.Handle(m.Pattern, m.Handler)
			routes.mounts[m.Pattern] = m
		}
	}
	return r, nil
}
