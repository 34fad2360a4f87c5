package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// GetHealth implements operations.ServerInterface.
func (h *handlers) GetHealth(w http.ResponseWriter, _ *http.Request) {
	_, _ = fmt.Fprintln(w, "ok")
}

// GetReadiness implements operations.ServerInterface.
func (h *handlers) GetReadiness(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	checks := h.Ready(ctx)
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

// GetMetrics implements operations.ServerInterface.
func (h *handlers) GetMetrics(w http.ResponseWriter, r *http.Request) { h.Metrics.ServeHTTP(w, r) }

// GetOpenapi implements operations.ServerInterface.
func (h *handlers) GetOpenapi(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(h.document)
}
