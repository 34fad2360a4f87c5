package httpapi

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/httprate"

	"github.com/millrace/millrace/kit/cqrs"
)

// Verify verifies a bearer token and returns its principal. The error says why the token is refused.
type Verify func(token string) (cqrs.Principal, error)

// authenticate reads the principal from the bearer token and refuses requests that the specification does not allow the principal. Requests
// without a valid token count for the rate limit of their address, which slows down the guessing of tokens.
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
					s.fail(w, r, err)
				})).ServeHTTP(w, r)
			}
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if !strings.EqualFold(scheme, "Bearer") {
				refuse(`Bearer realm="millrace"`, &RequestError{Status: http.StatusUnauthorized, Detail: "a bearer token is needed: Authorization: Bearer …"})
				return
			}
			principal, err := s.Verify(strings.TrimSpace(token))
			if err != nil {
				if _, text := errors.AsType[*cqrs.TextError](err); !text { // fail answers it with 400
					err = &RequestError{Status: http.StatusUnauthorized, Detail: err.Error()}
				}
				refuse(`Bearer realm="millrace", error="invalid_token"`, err)
				return
			}
			r = r.WithContext(cqrs.WithPrincipal(r.Context(), principal))
			if access == forOperators && !principal.Operator {
				limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					s.fail(w, r, &RequestError{Status: http.StatusForbidden, Detail: "this is for operators"})
				})).ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// limit limits how many requests a client may send in a second. A client is a principal, or an address if the request has no principal.
func (s *Server) limit() func(http.Handler) http.Handler {
	if s.RateLimit == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	key := func(r *http.Request) (string, error) {
		if p := cqrs.PrincipalFromContext(r.Context()); p.Subject != "" && p != cqrs.Guest {
			return "subject " + p.Subject, nil
		}
		return "address " + ClientOf(r.Context()).Addr, nil // the address is from a header only if a trusted proxy wrote the header
	}
	return httprate.LimitBy(s.RateLimit, time.Second, key, httprate.WithLimitHandler(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &RequestError{Status: http.StatusTooManyRequests, Detail: "too many requests in this second", RetryAfter: 1})
	}))
}
