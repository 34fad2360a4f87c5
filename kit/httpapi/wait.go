package httpapi

import (
	"context"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// MaxWait is the longest time that a client can wait with Prefer: wait.
const MaxWait = 30 * time.Second

// pollEvery is the interval at which a waiting request reads the outcome again, because Watch reports only commits of this instance.
const pollEvery = 250 * time.Millisecond

// Wait lets a client that sends Prefer: wait=N wait for the outcome of the operation that it started. Both functions receive the last element of the
// answer's Location header, which is the id of the object that the operation creates.
type Wait struct {
	// Streams are the streams of the event store whose changes may bring the outcome.
	Streams func(id string) []string

	// Outcome returns the body of the answer with status 200, and whether the outcome is known yet.
	Outcome func(ctx context.Context, id string) (body any, known bool, err error)
}

// WaitFor lets clients of an operation wait for its outcome if they send Prefer: wait. Operation is such as "POST /v1/orders"; it must answer 202 with a
// Location header.
func (a *API) WaitFor(operation string, w Wait) { a.waits[operation] = w }

// waiting applies the Wait of an operation. It runs outside the unit of work of the request, so it waits after the commit.
func (a *API) waiting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		operation, waits := a.waits[r.Method+" "+routedOf(r.Context()).pattern]
		if !waits {
			next.ServeHTTP(w, r)
			return
		}
		wait, err := preferredWait(r.Header.Values("Prefer"))
		if err != nil {
			a.Fail(w, r, err)
			return
		}
		if wait == 0 {
			next.ServeHTTP(w, r)
			return
		}
		answer := NewRecorder()
		next.ServeHTTP(answer, r)
		location := answer.Header().Get("Location")
		if location == "" || answer.Status != http.StatusAccepted {
			answer.WriteTo(w)
			return
		}
		body, known, err := a.outcome(r.Context(), operation, path.Base(location), wait)
		if err != nil {
			a.Fail(w, r, err)
			return
		}
		answer.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait.Seconds())))
		if known {
			answer.Body.Reset()
			Respond(answer, http.StatusOK, body)
		}
		answer.WriteTo(w)
	})
}

// preferredWait reads "wait=N" from Prefer headers (RFC 7240) and ignores other preferences, as the RFC demands.
func preferredWait(prefer []string) (time.Duration, error) {
	for _, preference := range strings.FieldsFunc(strings.Join(prefer, ","), func(r rune) bool { return r == ',' || r == ';' }) {
		name, value, found := strings.Cut(strings.TrimSpace(preference), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") || !found {
			continue
		}
		n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
		if err != nil || n < 0 {
			return 0, Invalid(http.StatusBadRequest, "Prefer", "wait must be a number of seconds")
		}
		return min(time.Duration(min(n, 3600))*time.Second, MaxWait), nil
	}
	return 0, nil
}

// outcome waits until the outcome of an operation is known, the time is over, or the service stops.
func (a *API) outcome(ctx context.Context, operation Wait, id string, wait time.Duration) (body any, known bool, err error) {
	changes, stop := a.server.Watch(operation.Streams(id)...)
	defer stop()
	deadline := time.After(wait)
	for {
		body, known, err = operation.Outcome(ctx, id)
		if err != nil || known {
			return body, known, err
		}
		select {
		case <-changes:
		case <-time.After(pollEvery):
		case <-deadline:
			return body, false, nil
		case <-a.server.Stopping:
			return body, false, nil
		case <-ctx.Done():
			return body, false, ctx.Err()
		}
	}
}
