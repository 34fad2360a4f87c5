package api

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/httprate"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// Verify reads a bearer token. The error says why it is not good.
type Verify func(token string) (cqrs.Principal, error)

// authenticate finds out who asks, and whether openapi.yaml lets them. Requests without a good token count for the rate limit of their
// address.
func (s *Server) authenticate(limit func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.Verify == nil {
				next.ServeHTTP(w, r.WithContext(cqrs.WithPrincipal(r.Context(), cqrs.Guest)))
				return
			}
			access := routedOf(r.Context()).access
			if access == forAll {
				next.ServeHTTP(w, r)
				return
			}
			refuse := func(challenge string, err error) {
				limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("WWW-Authenticate", challenge)
					s.problem(w, r, err)
				})).ServeHTTP(w, r)
			}
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if !strings.EqualFold(scheme, "Bearer") {
				refuse(`Bearer realm="millrace"`, &httpapi.RequestError{Status: http.StatusUnauthorized, Detail: "a bearer token is needed: Authorization: Bearer …"})
				return
			}
			principal, err := s.Verify(strings.TrimSpace(token))
			if err != nil {
				if _, text := errors.AsType[*cqrs.TextError](err); !text { // which is answered by 400
					err = &httpapi.RequestError{Status: http.StatusUnauthorized, Detail: err.Error()}
				}
				refuse(`Bearer realm="millrace", error="invalid_token"`, err)
				return
			}
			r = r.WithContext(cqrs.WithPrincipal(r.Context(), principal))
			if access == forOperators && !principal.Operator {
				limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					s.problem(w, r, &httpapi.RequestError{Status: http.StatusForbidden, Detail: "this is for operators"})
				})).ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// limit bounds how many requests a second a client may make: a principal, or without auth an address.
func (s *Server) limit() func(http.Handler) http.Handler {
	if s.RateLimit == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	key := func(r *http.Request) (string, error) {
		if p := cqrs.PrincipalOf(r.Context()); p.Subject != "" && p != cqrs.Guest {
			return "subject " + p.Subject, nil
		}
		return "address " + httpapi.ClientOf(r.Context()).Addr, nil // not what a header claims, unless a trusted proxy wrote it
	}
	return httprate.LimitBy(s.RateLimit, time.Second, key, httprate.WithLimitHandler(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, &httpapi.RequestError{Status: http.StatusTooManyRequests, Detail: "too many requests in this second", RetryAfter: 1})
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
