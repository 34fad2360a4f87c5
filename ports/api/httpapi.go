// Package httpapi is the service over HTTP, as openapi.yaml describes it: a file a resource.
package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
)

//go:generate go tool -modfile=../../tools/lint/lint.mod oapi-codegen -config oapi-codegen.yaml openapi.yaml

//go:embed openapi.yaml
var openapi []byte

// Server is what the handlers need.
type Server struct {
	Commands    cqrs.Commands
	UnitOfWork  cqrs.UnitOfWork
	Queries     *cqrs.Queries
	Idempotency httpapi.IdempotencyStore
	Letters     Letters
	Log         *slog.Logger

	// Cancel has the saga of an order undo it, or says that it is too late.
	Cancel func(ctx context.Context, orderID string) error

	// Operate carries out what a person decides about a stuck saga: saga.Retry, saga.Skip or saga.Resolve.
	Operate func(ctx context.Context, sagaID string, in saga.Input) error

	// SagaOf is the id of an order's saga.
	SagaOf func(orderID string) string

	// Watch returns a channel that is told of every commit to one of these streams on this instance.
	Watch func(streams ...string) (changes <-chan struct{}, stop func())

	// Wake has the relay look into the outbox.
	Wake func()

	Breakers func() []cqrs.Breaker
	Outbox   func(ctx context.Context) (cqrs.Backlog, error)
	Ready    func(ctx context.Context) []cqrs.Check
	Metrics  http.Handler
	AsyncAPI []byte       // the description of the messages
	Sandbox  http.Handler // nil where none runs

	// Verify reads bearer tokens; nil: nobody has to say who they are, and everybody is cqrs.Guest.
	Verify Verify

	// RateLimit is how many requests a second a client may make; 0: any number.
	RateLimit int

	// Hosts are the names that requests may be sent to without tokens, beside those of loopback; "*" is any.
	Hosts []string

	// Proxies are the addresses whose X-Forwarded-For and X-Forwarded-Proto count.
	Proxies []netip.Prefix

	// Streams bounds the event streams.
	Streams *httpapi.Streams

	// OnPanic is called for every handler that panicked. Optional.
	OnPanic func()

	// OnRequest is told of every request when it is answered. Optional.
	OnRequest func(method, route string, status int, took time.Duration)

	// Stopping is closed when the service stops: streams and waits end then.
	Stopping <-chan struct{}
}

// Letters keeps dead letters.
type Letters interface {
	List(ctx context.Context, before cqrs.Cursor, limit int) ([]cqrs.DeadLetter, error)
	ByID(ctx context.Context, id string) (cqrs.DeadLetter, error)
	Redrive(ctx context.Context, id string) error
	Drop(ctx context.Context, id, by, reason string) error
}

// Mount is something that is served beside the API and does not ask for tokens by itself: its handler does, if it has to.
type Mount struct {
	Pattern   string // chi's
	Handler   http.Handler
	Operators bool // it is for operators: not on a listener without them
}

// Handler routes requests to what a listener serves. The error is a fault of openapi.yaml.
func (s *Server) Handler(serves Serves, more ...func() []Mount) (http.Handler, error) {
	table, err := readAccess(openapi)
	if err != nil {
		return nil, err
	}
	r := chi.NewRouter()
	routes := &routes{router: r, operations: table, mounts: map[string]Mount{}, serves: serves}
	border := &httpapi.Border{CheckHost: s.Verify == nil, Hosts: s.Hosts, Proxies: s.Proxies, Log: s.Log, OnPanic: s.OnPanic, Fail: s.problem}
	// A page of another site must not act through its visitor's browser.
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &httpapi.RequestError{Status: http.StatusForbidden, Detail: "requests from pages of other sites are refused"})
	}))
	once := &httpapi.Idempotency{UnitOfWork: s.UnitOfWork, Store: s.Idempotency, Committed: s.Wake, Fail: s.problem}
	limit := s.limit()
	// In this order: what is cheap and refuses comes first; the handler and the record of an idempotency key are innermost, in one unit of
	// work, so that waiting for an order to be decided comes after its commit.
	r.Use(middleware.RequestID, s.begin, border.Recover, secure, border.Enter, foreign.Handler, s.route(routes), s.authenticate(limit), limit, s.waiting, forOperations(once.Handler))
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &httpapi.RequestError{Status: http.StatusNotFound, Detail: "there is nothing at " + r.URL.Path})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &httpapi.RequestError{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not possible at " + r.URL.Path})
	})
	HandlerWithOptions(s, ChiServerOptions{BaseRouter: r, ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
		if odd, ok := errors.AsType[*InvalidParamFormatError](err); ok {
			err = httpapi.Invalid(http.StatusBadRequest, odd.ParamName, "is not of the form that openapi.yaml gives")
		} else {
			err = &httpapi.RequestError{Status: http.StatusBadRequest, Detail: err.Error()}
		}
		s.problem(w, r, err)
	}})
	for _, mounts := range append(more, s.documents) {
		for _, m := range mounts() {
			r.Handle(m.Pattern, m.Handler)
			routes.mounts[m.Pattern] = m
		}
	}
	return r, nil
}

// begin makes the request the first message of what comes of it, and continues the caller's trace.
func (s *Server) begin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := uuid.NewV7()
		if err != nil {
			s.problem(w, r, err)
			return
		}
		began, at := time.Now(), &routed{}
		ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := otel.Tracer("millrace").Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		r = r.WithContext(context.WithValue(cqrs.WithMeta(ctx, cqrs.Meta{ID: id.String(), Correlation: id.String()}), routedKey{}, at))
		answer := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(answer, r)
		route, status := at.pattern, answer.Status()
		if status == 0 {
			status = http.StatusOK
		}
		span.SetName(r.Method + " " + route)
		span.SetAttributes(attribute.String("http.route", route), attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		if s.OnRequest != nil {
			s.OnRequest(known(r.Method), route, status, time.Since(began))
		}
	})
}

// known is a method as it is measured: clients can make up as many as they like.
func known(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// GetHealth implements ServerInterface.
func (s *Server) GetHealth(w http.ResponseWriter, _ *http.Request) {
	_, _ = fmt.Fprintln(w, "ok")
}

// GetReadiness implements ServerInterface.
func (s *Server) GetReadiness(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	checks := s.Ready(ctx)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, c := range checks {
		if c.Err != nil && c.Fatal {
			w.WriteHeader(http.StatusServiceUnavailable)
			break
		}
	}
	for _, c := range checks {
		switch {
		case c.Err == nil:
			_, _ = fmt.Fprintf(w, "%s: ok\n", c.Part)
		case c.Fatal:
			_, _ = fmt.Fprintf(w, "%s: down: %v\n", c.Part, c.Err)
		default:
			_, _ = fmt.Fprintf(w, "%s: degraded: %v\n", c.Part, c.Err)
		}
	}
}

// GetMetrics implements ServerInterface.
func (s *Server) GetMetrics(w http.ResponseWriter, r *http.Request) { s.Metrics.ServeHTTP(w, r) }

// GetOpenapi implements ServerInterface.
func (s *Server) GetOpenapi(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openapi)
}
