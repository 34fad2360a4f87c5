package httpapi

import (
	"encoding/json"
	"net/http"
)

// RequestError is a fault of a request: the status and the detail of the answer, and the wrong fields.
type RequestError struct {
	Status int
	Detail string
	Fields []FieldError

	// RetryAfter is the value of the header Retry-After, in seconds; 0: the answer has no such header.
	RetryAfter int
}

// FieldError describes the fault of a field, a parameter or a header.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (f *RequestError) Error() string { return f.Detail }

// Invalid returns a *RequestError about one field.
func Invalid(status int, field, message string) error {
	return &RequestError{Status: status, Detail: field + ": " + message, Fields: []FieldError{{Field: field, Message: message}}}
}

// WriteProblem answers with problem details (RFC 9457). It ignores errors of writing, because the client is gone then.
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
