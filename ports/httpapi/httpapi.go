// Package httpapi is the service over HTTP, as openapi.yaml describes it: a file a resource.
package httpapi

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/sagas/saga"
)

//go:generate go tool -modfile=../../tools/lint/lint.mod oapi-codegen -config oapi-codegen.yaml openapi.yaml

//go:embed openapi.yaml
var openapi []byte

// Server is what the handlers need.
type Server struct {
	Commands    app.Commands
	UnitOfWork  app.UnitOfWork
	Queries     *app.Queries
	Idempotency Idempotency
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

	Breakers func() []app.Breaker
	Outbox   func(ctx context.Context) (app.Backlog, error)
	Ready    func(ctx context.Context) []app.Check
	Metrics  http.Handler
	AsyncAPI []byte       // the description of the messages
	Sandbox  http.Handler // nil where none runs

	// Verify reads bearer tokens; nil: nobody has to say who they are, and everybody is app.Guest.
	Verify Verify

	// RateLimit is how many requests a second a client may make; 0: any number.
	RateLimit int

	// OnRequest is told of every request when it is answered. Optional.
	OnRequest func(method, route string, status int, took time.Duration)

	// Stopping is closed when the service stops: streams and waits end then.
	Stopping <-chan struct{}
}

// Idempotency keeps the answers to requests that bear a key.
type Idempotency interface {
	// Claim takes a key, in the unit of work of ctx, or returns the answer that it was taken with. The error is
	// app.ErrKeyReused if that was for another request.
	Claim(ctx context.Context, owner, key string, request []byte, answer any) (earlier json.RawMessage, err error)
}

// Letters keeps dead letters.
type Letters interface {
	List(ctx context.Context, before app.Cursor, limit int) ([]app.DeadLetter, error)
	ByID(ctx context.Context, id string) (app.DeadLetter, error)
	Redrive(ctx context.Context, id string) error
	Drop(ctx context.Context, id, by, reason string) error
}

// Handler routes requests. Pages and other things that are not part of the API are added to the router by more.
func (s *Server) Handler(more ...func(chi.Router)) http.Handler {
	r := chi.NewRouter()
	// A page of another site must not act through its visitor's browser.
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &fault{status: http.StatusForbidden, detail: "requests from pages of other sites are refused"})
	}))
	r.Use(middleware.RequestID, s.recover, secure, s.begin, foreign.Handler, s.authenticate, s.limit())
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &fault{status: http.StatusNotFound, detail: "there is nothing at " + r.URL.Path})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &fault{status: http.StatusMethodNotAllowed, detail: r.Method + " is not possible at " + r.URL.Path})
	})
	HandlerWithOptions(s, ChiServerOptions{BaseRouter: r, ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
		if odd, ok := errors.AsType[*InvalidParamFormatError](err); ok {
			err = invalid(http.StatusBadRequest, odd.ParamName, "is not of the form that openapi.yaml gives")
		} else {
			err = &fault{status: http.StatusBadRequest, detail: err.Error()}
		}
		s.problem(w, r, err)
	}})
	s.documents(r)
	for _, add := range more {
		add(r)
	}
	return r
}

// begin makes the request the first message of what comes of it, and continues the caller's trace.
func (s *Server) begin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := uuid.NewV7()
		if err != nil {
			s.problem(w, r, err)
			return
		}
		began := time.Now()
		ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := otel.Tracer("millrace").Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		r.URL.RawQuery = withoutEmpty(r.URL.Query())
		r = r.WithContext(app.WithMeta(ctx, app.Meta{ID: id.String(), Correlation: id.String()}))
		answer := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(answer, r)
		route, status := chi.RouteContext(ctx).RoutePattern(), answer.Status()
		if status == 0 {
			status = http.StatusOK
		}
		span.SetName(r.Method + " " + route)
		span.SetAttributes(attribute.String("http.route", route), attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		if s.OnRequest != nil {
			s.OnRequest(r.Method, route, status, time.Since(began))
		}
	})
}

// withoutEmpty has a parameter without a value be as if it were not there.
func withoutEmpty(query url.Values) string {
	maps.DeleteFunc(query, func(_ string, values []string) bool { return len(values) == 1 && values[0] == "" })
	return query.Encode()
}

func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if value := recover(); value != nil {
				if value == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
					panic(value)
				}
				s.problem(w, r, fmt.Errorf("panic: %v", value))
			}
		}()
		next.ServeHTTP(w, r)
	})
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
