package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// plain is a unit of work without a database.
type plain struct{}

func (plain) Within(ctx context.Context, work func(context.Context) error) error { return work(ctx) }

// trips is a small service: a route for customers and one for operators.
const trips = `
openapi: 3.0.3
info: {title: Trips, version: "1"}
paths:
  /v1/trips:
    post: {operationId: bookTrip, x-access: customer, responses: {}}
  /v1/trips/{id}:
    get: {operationId: getTrip, x-access: customer, responses: {}}
    delete: {operationId: deleteTrip, x-access: operator, responses: {}}
`

// things is a server with the fields that the middleware needs.
func things() *Server {
	return &Server{
		Service: &Service{OpenAPI: []byte(trips), Mount: func(api *API) {
			answer := func(w http.ResponseWriter, _ *http.Request) {
				Respond(w, http.StatusOK, map[string]string{"trip": "42"})
			}
			api.Router.Get("/v1/trips/{id}", answer)
			api.Router.Delete("/v1/trips/{id}", answer)
		}},
		UnitOfWork: plain{}, Log: slog.New(slog.DiscardHandler), Streams: &Streams{}, Wake: func() {},
		Ready:    func(context.Context) []cqrs.Check { return []cqrs.Check{{Part: "postgres"}} },
		Breakers: func() []cqrs.Breaker { panic("a breaker broke") },
		Outbox:   func(context.Context) (cqrs.Backlog, error) { return cqrs.Backlog{}, nil },
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) }),
	}
}

func ask(t *testing.T, s *Server, serves Serves, method, target string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	handler, err := s.Handler(serves, func() []Mount {
		page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("page")) })
		return []Mount{{Pattern: "/ui/*", Handler: page, Operators: true}}
	})
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	r.Host = "localhost"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestHEADWorksWhereGETDoes(t *testing.T) {
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.yaml", "/v1/outbox", "/v1/trips/42", "/docs/", "/ui/"} {
		require.Equal(t, http.StatusOK, ask(t, things(), Everything, http.MethodHead, path).Code, path)
	}
	require.Equal(t, http.StatusNotFound, ask(t, things(), Everything, http.MethodHead, "/v1/nothing").Code)
	require.Equal(t, http.StatusMethodNotAllowed, ask(t, things(), Everything, http.MethodHead, "/v1/sagas/x/retry").Code)
}

func TestPanicInAHandlerIs500AndCounted(t *testing.T) {
	s, panics := things(), 0
	s.OnPanic = func() { panics++ }
	seen := 0
	s.OnRequest = func(_, route string, status int, _ time.Duration) {
		require.Equal(t, "/v1/breakers", route)
		seen = status
	}
	w := ask(t, s, Everything, http.MethodGet, "/v1/breakers")
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, 1, panics)
	require.Equal(t, http.StatusInternalServerError, seen, "it is measured as such")
}

func TestHostIsCheckedForEverythingWithoutTokens(t *testing.T) {
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/v1/outbox", "/v1/nothing", "/docs/", "/ui/"} {
		w := ask(t, things(), Everything, http.MethodGet, path, "Host", "evil.example")
		require.Equal(t, http.StatusMisdirectedRequest, w.Code, path)
		require.Contains(t, w.Body.String(), "HTTP_HOSTS")
	}
}

// With OPS_ADDR there are two listeners, and the public one has no route for operators.
func TestListenersServeTheirPart(t *testing.T) {
	for path, want := range map[string][4]int{ // everything, customers, probes, nothing
		"/healthz":      {200, 200, 200, 200},
		"/readyz":       {200, 404, 200, 404},
		"/metrics":      {200, 404, 200, 404},
		"/openapi.yaml": {200, 200, 404, 404},
		"/docs/":        {200, 200, 404, 404},
		"/v1/outbox":    {200, 404, 404, 404},
		"/v1/trips/42":  {200, 200, 404, 404},
		"/ui/":          {200, 404, 404, 404},
	} {
		for i, serves := range []Serves{Everything, {API: true}, {Probes: true}, {}} {
			require.Equal(t, want[i], ask(t, things(), serves, http.MethodGet, path).Code, "%s on %+v", path, serves)
		}
	}
}

func TestAccessIsEnforced(t *testing.T) {
	s := things()
	s.Verify = func(token string) (cqrs.Principal, error) {
		switch token {
		case "customer":
			return cqrs.Principal{Subject: "ada"}, nil
		case "operator":
			return cqrs.Principal{Subject: "olga", Operator: true}, nil
		case "nul":
			return cqrs.Principal{}, errors.Join(errors.New("bad"), &cqrs.TextError{Field: "sub", Reason: "contains a NUL character"})
		}
		return cqrs.Principal{}, errors.New("bad token")
	}
	status := func(path, token string) int {
		headers := []string{"Host", "orders.example"} // any Host is accepted when tokens are needed
		if token != "" {
			headers = append(headers, "Authorization", "Bearer "+token)
		}
		return ask(t, s, Everything, http.MethodGet, path, headers...).Code
	}
	for path, want := range map[string][4]int{ // no token, a wrong one, a customer, an operator
		"/healthz":    {200, 200, 200, 200},
		"/ui/":        {200, 200, 200, 200}, // the handler of a Mount checks tokens itself
		"/v1/outbox":  {401, 401, 403, 200},
		"/v1/trips/1": {401, 401, 200, 200},
		"/v1/nothing": {401, 401, 403, 404},
	} {
		for i, token := range []string{"", "x", "customer", "operator"} {
			require.Equal(t, want[i], status(path, token), "%s with %q", path, token)
		}
	}
	w := ask(t, s, Everything, http.MethodGet, "/v1/outbox", "Authorization", "Bearer nul")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), `"field":"sub"`)
}

func TestWrongTokensCountForTheRateLimit(t *testing.T) {
	s := things()
	s.RateLimit = 5
	s.Verify = func(string) (cqrs.Principal, error) { return cqrs.Principal{}, errors.New("bad token") }
	handler, err := s.Handler(Everything)
	require.NoError(t, err)
	limited := 0
	for range 100 {
		r := httptest.NewRequest(http.MethodGet, "/v1/outbox", nil)
		r.Header.Set("Authorization", "Bearer guess")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusTooManyRequests {
			require.Equal(t, "1", w.Header().Get("Retry-After"))
			limited++
		} else {
			require.Equal(t, http.StatusUnauthorized, w.Code)
		}
	}
	require.GreaterOrEqual(t, limited, 80)
}

func TestTextThatCannotBeStoredNamesTheField(t *testing.T) {
	for target, field := range map[string]string{
		"GET /v1/dead-letters/%00": "id", "POST /v1/dead-letters/a%ff/redrive": "id", "DELETE /v1/dead-letters/x?reason=%00": "reason",
		"GET /v1/sagas?cursor=%ff": "cursor", "GET /v1/sagas?status=%00": "status", "GET /v1/sagas/%00": "id", "GET /v1/%00": "path", "GET /ui/orders/%00": "path", "GET /ui/orders?search=%00": "search",
		"GET /v1/dead-letters/" + strings.Repeat("x", 6000):          "id",
		"GET /v1/sagas?cursor=" + cqrs.Cursor{ID: "a\xffb"}.String(): "cursor", "GET /v1/dead-letters?cursor=" + cqrs.Cursor{ID: "a\x00b"}.String(): "cursor",
	} {
		method, path, _ := strings.Cut(target, " ")
		w := ask(t, things(), Everything, method, path)
		require.Equal(t, http.StatusBadRequest, w.Code, "%.60s: %s", target, w.Body)
		require.Contains(t, w.Body.String(), `"field":"`+field+`"`, "%.60s", target)
	}
	w := ask(t, things(), Everything, http.MethodPost, "/v1/dead-letters/x/redrive", "Idempotency-Key", "a\xffb")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), `"field":"Idempotency-Key"`)
}

// A client must not be able to make up labels of a metric.
func TestMetricsOfRequestsHaveBoundedLabels(t *testing.T) {
	s := things()
	seen := map[string]bool{}
	s.OnRequest = func(method, route string, _ int, _ time.Duration) { seen[method+" "+route] = true }
	for _, method := range []string{"BREW", "WHEN", "GET"} {
		ask(t, s, Everything, method, "/v1/made-up")
		ask(t, s, Everything, method, "/v1/outbox")
	}
	require.Equal(t, map[string]bool{"other ": true, "GET ": true, "GET /v1/outbox": true}, seen)
}

// Each client behind a trusted proxy has a rate limit of its own; an X-Forwarded-For that a client made up itself does not count.
func TestRateLimitCountsClientsBehindATrustedProxy(t *testing.T) {
	s := things()
	s.RateLimit = 5
	s.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}
	handler, err := s.Handler(Everything)
	require.NoError(t, err)
	limited := func(peer string, forwarded func(n int) string) (limited int) {
		for n := range 40 {
			r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
			r.Host, r.RemoteAddr = "localhost", peer+":1"
			r.Header.Set("X-Forwarded-For", forwarded(n))
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code == http.StatusTooManyRequests {
				limited++
			}
		}
		return limited
	}
	each := func(n int) string { return fmt.Sprintf("198.51.100.%d", n) }
	require.Zero(t, limited("10.0.0.1", each))
	require.Positive(t, limited("192.0.2.9", each), "this one is no proxy")
	require.Positive(t, limited("10.0.0.1", func(n int) string { return each(n) + ", 203.0.113.7" }), "one client that claims to be many")
}
