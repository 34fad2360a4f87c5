package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// follow sends a request for an event stream of these snapshots; a change is reported after each read.
func follow(t *testing.T, method, lastEventID string, fail error, snapshots ...Snapshot) *httptest.ResponseRecorder {
	t.Helper()
	changes := make(chan struct{}, 1)
	s := things()
	s.Watch = func(streams ...string) (<-chan struct{}, func()) {
		require.Equal(t, []string{"trips/42"}, streams)
		return changes, func() {}
	}
	s.Service.Mount = func(api *API) {
		api.Router.Get("/v1/trips/{id}", func(w http.ResponseWriter, r *http.Request) {
			api.Follow(w, r, []string{"trips/42"}, func(context.Context) (Snapshot, error) {
				if len(snapshots) == 0 {
					return Snapshot{}, fail
				}
				now := snapshots[0]
				snapshots = snapshots[1:]
				changes <- struct{}{}
				return now, nil
			})
		})
	}
	return ask(t, s, Everything, method, "/v1/trips/42", "Last-Event-ID", lastEventID)
}

func snapshot(trip, saga int, atRest bool) Snapshot {
	return Snapshot{AtRest: atRest, Parts: []Part{{"trip", trip, map[string]int{"v": trip}}, {"saga", saga, map[string]int{"v": saga}}}}
}

func TestFollowSendsEveryChangeUntilAllIsAtRest(t *testing.T) {
	w := follow(t, http.MethodGet, "", nil, snapshot(1, 0, false), snapshot(1, 2, false), snapshot(2, 3, true))
	require.Equal(t, "text/event-stream", w.Header().Get("Content-Type"))
	require.Equal(t, "event: trip\nid: 1-0\ndata: {\"v\":1}\n\n"+
		"event: saga\nid: 1-2\ndata: {\"v\":2}\n\n"+
		"event: saga\nid: 1-3\ndata: {\"v\":3}\n\n"+"event: trip\nid: 2-3\ndata: {\"v\":2}\n\n", w.Body.String())
}

func TestFollowGoesOnAfterLastEventID(t *testing.T) {
	require.Equal(t, "event: saga\nid: 2-3\ndata: {\"v\":3}\n\n", follow(t, http.MethodGet, "2-2", nil, snapshot(2, 3, true)).Body.String())
	require.Equal(t, http.StatusNoContent, follow(t, http.MethodGet, "2-3", nil, snapshot(2, 3, true)).Code)
	for _, unknown := range []string{"from elsewhere", "2", "2-3-4", "2--3", "x-3"} {
		require.Contains(t, follow(t, http.MethodGet, unknown, nil, snapshot(2, 3, true)).Body.String(), "id: 2-3", unknown)
	}
}

func TestFollowAnswersHEADAndErrors(t *testing.T) {
	head := follow(t, http.MethodHead, "", nil, snapshot(1, 1, false))
	require.Equal(t, "text/event-stream", head.Header().Get("Content-Type"))
	require.Empty(t, head.Body.String())
	require.Equal(t, http.StatusNotFound, follow(t, http.MethodGet, "", cqrs.ErrNotFound).Code)
	require.Contains(t, follow(t, http.MethodGet, "", errors.New("late"), snapshot(1, 0, false)).Body.String(), "id: 1-0", "the stream has begun")
}

// booking is a server whose POST /v1/trips answers 202 and whose trip is booked after so many reads.
func booking(t *testing.T, reads int) *Server {
	t.Helper()
	s := things()
	s.Watch = func(...string) (<-chan struct{}, func()) { return nil, func() {} }
	s.Service.Mount = func(api *API) {
		api.Router.Post("/v1/trips", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/v1/trips/42")
			Respond(w, http.StatusAccepted, map[string]string{"status": "pending"})
		})
		api.WaitFor("POST /v1/trips", Wait{
			Streams: func(id string) []string { return []string{"trips/" + id} },
			Outcome: func(_ context.Context, id string) (any, bool, error) {
				reads--
				return map[string]string{"trip": id, "status": "booked"}, reads < 0, nil
			},
		})
	}
	return s
}

func TestPreferWait(t *testing.T) {
	now := ask(t, booking(t, 0), Everything, http.MethodPost, "/v1/trips")
	require.Equal(t, http.StatusAccepted, now.Code)
	require.Empty(t, now.Header().Get("Preference-Applied"))

	booked := ask(t, booking(t, 1), Everything, http.MethodPost, "/v1/trips", "Prefer", "respond-async, wait=5")
	require.Equal(t, http.StatusOK, booked.Code)
	require.Equal(t, "wait=5", booked.Header().Get("Preference-Applied"))
	require.JSONEq(t, `{"trip":"42","status":"booked"}`, booked.Body.String())
	require.Equal(t, "/v1/trips/42", booked.Header().Get("Location"))

	began := time.Now()
	pending := ask(t, booking(t, 1000), Everything, http.MethodPost, "/v1/trips", "Prefer", "wait=1")
	require.Equal(t, http.StatusAccepted, pending.Code)
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	require.JSONEq(t, `{"status":"pending"}`, pending.Body.String())

	require.Equal(t, http.StatusBadRequest, ask(t, booking(t, 0), Everything, http.MethodPost, "/v1/trips", "Prefer", "wait=soon").Code)
}

func FuzzPreferredWait(f *testing.F) {
	for _, prefer := range []string{"wait=3", "WAIT = \"7\"; x, return=minimal", "wait=-1", "wait=999999999", ""} {
		f.Add(prefer)
	}
	f.Fuzz(func(t *testing.T, prefer string) {
		wait, err := preferredWait([]string{prefer})
		require.GreaterOrEqual(t, wait, time.Duration(0), strconv.Quote(prefer))
		require.LessOrEqual(t, wait, MaxWait)
		if err != nil {
			require.Zero(t, wait)
		}
	})
}
