package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// fail answers with the problem details (RFC 9457) of an error. It logs an unexpected error, whose text the client does not receive.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	Failed(r.Context(), err)
	status, detail, fields := http.StatusInternalServerError, "this is our fault; the log says more", []FieldError(nil)
	if f, ok := errors.AsType[*RequestError](err); ok {
		status, detail, fields = f.Status, f.Detail, f.Fields
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
	} else if f, ok := errors.AsType[*cqrs.TextError](err); ok {
		status, detail, fields = http.StatusBadRequest, f.Error(), []FieldError{{Field: f.Field, Message: f.Reason}}
	} else if f, ok := errors.AsType[*aggregate.FieldError](err); ok {
		status, detail, fields = http.StatusUnprocessableEntity, f.Error(), []FieldError{{Field: f.Field, Message: f.Err.Error()}}
	} else {
		switch cqrs.KindOf(err) {
		case cqrs.KindRefused:
			status, detail = http.StatusConflict, err.Error()
		case cqrs.KindConflict, cqrs.KindTransient, cqrs.KindUnavailable:
			status, detail = http.StatusServiceUnavailable, "the database is not available or too busy; try again"
			w.Header().Set("Retry-After", "1")
			s.Log.WarnContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		case cqrs.KindNone, cqrs.KindUnknown, cqrs.KindPermanent, cqrs.KindShuttingDown:
			switch {
			case errors.Is(err, cqrs.ErrNotFound):
				status, detail = http.StatusNotFound, err.Error()
			case errors.Is(err, saga.ErrNotDefined):
				status, detail = http.StatusConflict, err.Error()
			case errors.Is(err, cqrs.ErrPermanent) && !errors.Is(err, cqrs.ErrRejected) && !isPanic(err):
				status, detail = http.StatusUnprocessableEntity, err.Error()
			case r.Context().Err() == nil:
				s.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			}
		}
	}
	WriteProblem(w, status, detail, fields)
}

func isPanic(err error) bool {
	_, ok := errors.AsType[*cqrs.PanicError](err)
	return ok
}

// Respond answers with a JSON body. It panics if body cannot be encoded, which Border.Recover logs and answers with 500. It ignores errors of writing, because the
// client is gone then.
func Respond(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Errorf("encode the response: %w", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the client is gone if this fails
}
