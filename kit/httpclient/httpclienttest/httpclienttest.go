// Package httpclienttest stands in for external services in tests.
package httpclienttest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Accepting starts an external service that accepts every POST to a path, and returns its URL. Another call, or one without an idempotency key,
// fails the test.
func Accepting(t *testing.T, path string) (url string) {
	t.Helper()
	s := NewService(t)
	s.Answer = func(called, _ string) (refusal string) {
		if called != path {
			t.Errorf("the path is %s, not %s", called, path)
		}
		return ""
	}
	return s.URL
}

// Service is an external service that accepts what its test does not have refused.
type Service struct {
	URL string

	// Answer returns why a call is refused, or nothing. Nil: every call is accepted. Set it before the first call.
	Answer func(path, body string) (refusal string)

	mu    sync.Mutex
	calls []string
}

// NewService starts a service until the test's end.
func NewService(t *testing.T) *Service {
	t.Helper()
	s := &Service{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Idempotency-Key") == "" {
			t.Errorf("%s %s has no Idempotency-Key", r.Method, r.URL.Path)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.calls = append(s.calls, r.URL.Path)
		s.mu.Unlock()
		answer := map[string]string{"reference": r.Header.Get("Idempotency-Key")}
		w.Header().Set("Content-Type", "application/json")
		if s.Answer != nil {
			if refusal := s.Answer(r.URL.Path, string(body)); refusal != "" {
				answer = map[string]string{"reason": refusal}
				w.WriteHeader(http.StatusConflict)
			}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// Calls are the paths that were called, in this order.
func (s *Service) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}
