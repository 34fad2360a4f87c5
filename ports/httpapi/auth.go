package httpapi

import (
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/httprate"

	"github.com/millrace/millrace/app"
)

// Verify reads a bearer token. The error says why it is not good.
type Verify func(token string) (app.Principal, error)

// authenticate finds out who asks. What is neither open to all nor for customers is for operators.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Verify == nil {
			next.ServeHTTP(w, r.WithContext(app.WithPrincipal(r.Context(), app.Guest)))
			return
		}
		access := accessTo(r)
		if access == forAll {
			next.ServeHTTP(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="millrace"`)
			s.problem(w, r, &fault{status: http.StatusUnauthorized, detail: "a bearer token is needed: Authorization: Bearer …"})
			return
		}
		principal, err := s.Verify(strings.TrimSpace(token))
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="millrace", error="invalid_token"`)
			s.problem(w, r, &fault{status: http.StatusUnauthorized, detail: err.Error()})
			return
		}
		if access == forOperators && !principal.Operator {
			s.problem(w, r, &fault{status: http.StatusForbidden, detail: "this is for operators"})
			return
		}
		next.ServeHTTP(w, r.WithContext(app.WithPrincipal(r.Context(), principal)))
	})
}

// access is who may ask for something.
type access int

const (
	forOperators access = iota // what is not listed
	forCustomers
	forAll
)

func accessTo(r *http.Request) access {
	path := r.URL.Path
	switch {
	case path == "/healthz", path == "/readyz", path == "/metrics", path == "/openapi.yaml", strings.HasPrefix(path, "/sandbox/"), path == "/", path == "/ui", path == "/asyncapi.yaml", path == "/docs", strings.HasPrefix(path, "/docs/"), strings.HasPrefix(path, "/ui/"):
		return forAll
	case path == "/v1/orders", strings.HasPrefix(path, "/v1/orders/"), r.Method == http.MethodGet && strings.HasPrefix(path, "/v1/stock/"):
		return forCustomers
	}
	return forOperators
}

// limit bounds how many requests a second a client may make: a principal, or without auth an address.
func (s *Server) limit() func(http.Handler) http.Handler {
	if s.RateLimit == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	key := func(r *http.Request) (string, error) {
		if p := app.PrincipalOf(r.Context()); p.Subject != "" && p != app.Guest {
			return "subject " + p.Subject, nil
		}
		host, _, err := net.SplitHostPort(r.RemoteAddr) // not what a header claims
		return "address " + host, err
	}
	return httprate.LimitBy(s.RateLimit, time.Second, key, httprate.WithLimitHandler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "1")
		s.problem(w, r, &fault{status: http.StatusTooManyRequests, detail: "too many requests in this second"})
	}))
}

// secure sets the headers that keep browsers from doing more with an answer than they should. Pages that need more say so
// themselves.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			h.Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}
