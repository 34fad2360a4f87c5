package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// StreamOrder implements ServerInterface.
func (s *Server) StreamOrder(w http.ResponseWriter, r *http.Request, id Id) {
	o, err := s.order(r.Context(), id)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	sagaID := s.SagaOf(id)
	changes, stop := s.Watch(order.Category+"/"+id, saga.Category+"/"+sagaID)
	defer stop()
	var beat <-chan time.Time
	var stream *httpapi.Stream // opened by the first event
	orderVersion, sagaVersion := lastSeen(r.Header.Get("Last-Event-ID"))
	resumed := orderVersion+sagaVersion > 0
	for {
		state, err := s.sagaState(r.Context(), sagaID)
		if err == nil {
			o, err = cqrs.AskFor(r.Context(), s.Queries, query.OrderByID{ID: id})
		}
		atRest := o.Status != order.Pending && state.Status.Ended()
		if stream == nil {
			if err == nil && resumed && atRest && o.Version <= orderVersion && state.Version <= sagaVersion {
				w.WriteHeader(http.StatusNoContent) // a browser does not ask again then
				return
			}
			var done func()
			if err == nil {
				stream, done, err = s.Streams.Begin(w, r)
			}
			if err != nil {
				s.problem(w, r, err)
			}
			if stream == nil {
				return
			}
			defer done()
			ticker := time.NewTicker(httpapi.Heartbeat)
			defer ticker.Stop()
			beat = ticker.C
		}
		if err == nil && state.Version > sagaVersion {
			sagaVersion = state.Version
			err = sendJSON(stream, "saga", fmt.Sprintf("%d-%d", orderVersion, sagaVersion), toSaga(state))
		}
		if err == nil && o.Version > orderVersion {
			orderVersion = o.Version
			err = sendJSON(stream, "order", fmt.Sprintf("%d-%d", orderVersion, sagaVersion), toOrder(o))
		}
		if err != nil || atRest {
			return
		}
		select {
		case <-changes:
		case <-time.After(pollEvery):
		case <-beat:
			if stream.Beat() != nil {
				return
			}
		case <-s.Stopping:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// sagaState reads a saga; one that has not started yet is the zero State.
func (s *Server) sagaState(ctx context.Context, id string) (saga.State, error) {
	state, err := cqrs.AskFor(ctx, s.Queries, manager.ByID{ID: id})
	if errors.Is(err, cqrs.ErrNotFound) {
		return saga.State{}, nil
	}
	return state, err
}

// lastSeen reads the id of the last event that a client got before its connection ended: the versions of the order and of its saga.
func lastSeen(id string) (orderVersion, sagaVersion int) {
	left, right, found := strings.Cut(id, "-")
	o, errOrder := strconv.Atoi(left)
	g, errSaga := strconv.Atoi(right)
	if !found || errOrder != nil || errSaga != nil || o < 0 || g < 0 {
		return 0, 0 // none of ours: everything is sent
	}
	return o, g
}

func sendJSON(stream *httpapi.Stream, name, id string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return stream.Send(name, id, string(data))
}
