package httpapi

import (
	"fmt"
	"net/http"
)

// GetSandbox implements ServerInterface.
func (s *Server) GetSandbox(w http.ResponseWriter, r *http.Request, service string) {
	s.sandbox(w, r, service)
}

// PutSandbox implements ServerInterface.
func (s *Server) PutSandbox(w http.ResponseWriter, r *http.Request, service string) {
	s.sandbox(w, r, service)
}

func (s *Server) sandbox(w http.ResponseWriter, r *http.Request, service string) {
	if s.Sandbox == nil {
		s.problem(w, r, &fault{status: http.StatusNotFound, detail: fmt.Sprintf("no sandbox runs here, so there is none of %q", service)})
		return
	}
	s.Sandbox.ServeHTTP(w, r)
}
