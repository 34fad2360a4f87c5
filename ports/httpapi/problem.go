package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/aggregate"
)

// fault is an error that knows its status and the fields that it is about.
type fault struct {
	status int
	detail string
	fields []FieldError
}

func (f *fault) Error() string { return f.detail }

// invalid is a fault in one field.
func invalid(status int, field, message string) error {
	return &fault{status, field + ": " + message, []FieldError{{Field: field, Message: message}}}
}

// problem answers with the problem details (RFC 9457) of an error. What nobody foresaw is logged, not told.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	p := Problem{Type: "about:blank", Status: http.StatusInternalServerError, Detail: "this is our fault; the log says more"}
	if f, ok := errors.AsType[*fault](err); ok {
		p.Status, p.Detail = f.status, f.detail
		if len(f.fields) > 0 {
			p.Errors = &f.fields
		}
	} else if f, ok := errors.AsType[*aggregate.FieldError](err); ok {
		p.Status, p.Detail = http.StatusUnprocessableEntity, f.Error()
		p.Errors = &[]FieldError{{Field: f.Field, Message: f.Err.Error()}}
	} else if f, ok := errors.AsType[*app.TextError](err); ok {
		p.Status, p.Detail = http.StatusBadRequest, f.Error()
		p.Errors = &[]FieldError{{Field: f.Field, Message: f.Reason}}
	} else {
		switch app.KindOf(err) {
		case app.Refused:
			p.Status, p.Detail = http.StatusConflict, err.Error()
		case app.Conflict, app.Transient, app.Down:
			p.Status, p.Detail = http.StatusServiceUnavailable, "the database is not available or too busy; try again"
			w.Header().Set("Retry-After", "1")
			s.Log.WarnContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		case app.None, app.Unknown, app.Poison, app.Stopping:
			switch {
			case errors.Is(err, app.ErrNotFound):
				p.Status, p.Detail = http.StatusNotFound, err.Error()
			case errors.Is(err, app.ErrPermanent) && !errors.Is(err, app.ErrRejected) && !isPanic(err):
				p.Status, p.Detail = http.StatusUnprocessableEntity, err.Error()
			case r.Context().Err() == nil:
				s.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			}
		}
	}
	p.Title = http.StatusText(p.Status)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone if this fails
}

func isPanic(err error) bool {
	_, ok := errors.AsType[*app.PanicError](err)
	return ok
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
}
