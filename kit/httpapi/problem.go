// Package web is what the API and the pages share: the checks at the border, strict JSON, idempotency keys, event streams.
package httpapi

import (
	"encoding/json"
	"net/http"
)

// RequestError is what is wrong with a request: it knows its status and the fields that it is about.
type RequestError struct {
	Status int
	Detail string
	Fields []FieldError

	// RetryAfter is in how many seconds it may be tried again; 0: it is not said.
	RetryAfter int
}

// FieldError is what is wrong with a field, a parameter or a header.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (f *RequestError) Error() string { return f.Detail }

// Invalid is a fault in one field.
func Invalid(status int, field, message string) error {
	return &RequestError{Status: status, Detail: field + ": " + message, Fields: []FieldError{{Field: field, Message: message}}}
}

// WriteProblem answers with problem details (RFC 9457).
func WriteProblem(w http.ResponseWriter, status int, detail string, fields []FieldError) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client is gone if this fails
		Type   string       `json:"type"`
		Title  string       `json:"title"`
		Status int          `json:"status"`
		Detail string       `json:"detail"`
		Errors []FieldError `json:"errors,omitempty"`
	}{"about:blank", http.StatusText(status), status, detail, fields})
}
