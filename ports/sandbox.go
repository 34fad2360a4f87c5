package ports

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/millrace/millrace/kit/httpapi"
)

// GetSandbox implements ServerInterface.
func (h *handlers) GetSandbox(w http.ResponseWriter, r *http.Request, service string) {
	h.sandbox(w, r, service)
}

// PutSandbox implements ServerInterface.
func (h *handlers) PutSandbox(w http.ResponseWriter, r *http.Request, service string) {
	if h.Sandbox == nil {
		h.sandbox(w, r, service)
		return
	}
	body, err := httpapi.ReadBody(w, r)
	if err == nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		err = httpapi.Decode(w, r, &Knobs{})
	}
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	h.sandbox(w, r, service)
}

func (h *handlers) sandbox(w http.ResponseWriter, r *http.Request, service string) {
	if h.Sandbox == nil {
		h.Fail(w, r, &httpapi.RequestError{Status: http.StatusNotFound, Detail: fmt.Sprintf("no sandbox runs here, so there is none of %q", service)})
		return
	}
	h.Sandbox.ServeHTTP(w, r)
}
