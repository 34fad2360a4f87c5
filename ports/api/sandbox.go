package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/millrace/millrace/kit/httpapi"
)

// GetSandbox implements ServerInterface.
func (s *Server) GetSandbox(w http.ResponseWriter, r *http.Request, service string) {
	s.sandbox(w, r, service)
}

// PutSandbox implements ServerInterface.
func (s *Server) PutSandbox(w http.ResponseWriter, r *http.Request, service string) {
	if s.Sandbox == nil {
		s.sandbox(w, r, service)
		return
	}
	body, err := httpapi.ReadBody(w, r)
	if err == nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		err = httpapi.Decode(w, r, &Knobs{})
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.sandbox(w, r, service)
}

func (s *Server) sandbox(w http.ResponseWriter, r *http.Request, service string) {
	if s.Sandbox == nil {
		s.problem(w, r, &httpapi.RequestError{Status: http.StatusNotFound, Detail: fmt.Sprintf("no sandbox runs here, so there is none of %q", service)})
		return
	}
	s.Sandbox.ServeHTTP(w, r)
}
