package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/sagas"
	"github.com/millrace/millrace/sagas/saga"
)

// heartbeat keeps an idle stream from being cut by what is in between.
const heartbeat = 15 * time.Second

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
	stream := &eventStream{w: w, out: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	if err := stream.out.SetWriteDeadline(time.Time{}); err != nil {
		s.Log.DebugContext(r.Context(), "stream: the server's write deadline stays", "error", err)
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	orderVersion, sagaVersion := 0, 0
	for {
		state, err := s.sagaState(r.Context(), sagaID)
		if err != nil {
			return
		}
		if o, err = app.AskFor(r.Context(), s.Queries, query.OrderByID{ID: id}); err != nil {
			return
		}
		if state.Version > sagaVersion {
			sagaVersion = state.Version
			err = stream.send("saga", fmt.Sprintf("%d-%d", o.Version, sagaVersion), toSaga(state))
		}
		if err == nil && o.Version > orderVersion {
			orderVersion = o.Version
			err = stream.send("order", fmt.Sprintf("%d-%d", orderVersion, sagaVersion), toOrder(o))
		}
		if err != nil || (o.Status != order.Pending && state.Status.Ended()) {
			return
		}
		select {
		case <-changes:
		case <-time.After(pollEvery):
		case <-beat.C:
			if stream.comment("still here") != nil {
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
	state, err := app.AskFor(ctx, s.Queries, sagas.ByID{ID: id})
	if errors.Is(err, app.ErrNotFound) {
		return saga.State{}, nil
	}
	return state, err
}

// eventStream writes server-sent events.
type eventStream struct {
	w   http.ResponseWriter
	out *http.ResponseController
}

func (e *eventStream) send(name, id string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(e.w, "event: %s\nid: %s\ndata: %s\n\n", name, id, data); err != nil {
		return err
	}
	return e.out.Flush()
}

func (e *eventStream) comment(text string) error {
	if _, err := fmt.Fprintf(e.w, ": %s\n\n", text); err != nil {
		return err
	}
	return e.out.Flush()
}
