package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/aggregate"
	"github.com/millrace/millrace/ports/web"
)

// problem answers with the problem details (RFC 9457) of an error. What nobody foresaw is logged, not told.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	web.Failed(r.Context(), err)
	status, detail, fields := http.StatusInternalServerError, "this is our fault; the log says more", []web.FieldError(nil)
	if f, ok := errors.AsType[*web.RequestError](err); ok {
		status, detail, fields = f.Status, f.Detail, f.Fields
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
	} else if f, ok := errors.AsType[*app.TextError](err); ok {
		status, detail, fields = http.StatusBadRequest, f.Error(), []web.FieldError{{Field: f.Field, Message: f.Reason}}
	} else if f, ok := errors.AsType[*aggregate.FieldError](err); ok {
		status, detail, fields = http.StatusUnprocessableEntity, f.Error(), []web.FieldError{{Field: f.Field, Message: f.Err.Error()}}
	} else {
		switch app.KindOf(err) {
		case app.Refused:
			status, detail = http.StatusConflict, err.Error()
		case app.Conflict, app.Transient, app.Down:
			status, detail = http.StatusServiceUnavailable, "the database is not available or too busy; try again"
			w.Header().Set("Retry-After", "1")
			s.Log.WarnContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		case app.None, app.Unknown, app.Poison, app.Stopping:
			switch {
			case errors.Is(err, app.ErrNotFound):
				status, detail = http.StatusNotFound, err.Error()
			case errors.Is(err, app.ErrPermanent) && !errors.Is(err, app.ErrRejected) && !isPanic(err):
				status, detail = http.StatusUnprocessableEntity, err.Error()
			case r.Context().Err() == nil:
				s.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			}
		}
	}
	web.WriteProblem(w, status, detail, fields)
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
