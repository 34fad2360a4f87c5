package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Snapshot has the objects that the client of an event stream follows, as they are at one moment.
type Snapshot struct {
	// Parts are the objects that the client follows, the main object first. Changes are sent from the last part to the first, so that a client that
	// stops at the end of the main object has received the changes of the other parts. The number and the order of the parts must not change: the
	// versions of all parts, in this order, are the id of an event, which a client sends as Last-Event-ID to continue after an interruption.
	Parts []Part

	// AtRest says that no part will change any more. Then the stream ends.
	AtRest bool
}

// Part is one object of a Snapshot. It is sent if its version is greater than the version that the client has received.
type Part struct {
	Event   string // the name of the server-sent event
	Version int    // at least 1; 0: the object does not exist yet, and is not sent
	Data    any    // encoded as JSON
}

// Follow answers with a stream of server-sent events: the parts that read returns, now and after each change of one of these streams of the event
// store. It blocks until the parts are at rest, the client disconnects, or the service stops. It answers 204 if the client has already received all
// parts and they are at rest; a browser does not reconnect after 204.
func (a *API) Follow(w http.ResponseWriter, r *http.Request, streams []string, read func(ctx context.Context) (Snapshot, error)) {
	changes, stop := a.server.Watch(streams...) // before the first read, so that no change between the two is lost
	defer stop()
	now, err := read(r.Context())
	if err != nil {
		a.Fail(w, r, err)
		return
	}
	seen, resumed := lastSeen(r.Header.Get("Last-Event-ID"), len(now.Parts))
	if resumed && now.AtRest && !now.news(seen) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	stream, done, err := a.server.Streams.Begin(w, r)
	if err != nil {
		a.Fail(w, r, err)
		return
	}
	if stream == nil {
		return // the request was a HEAD
	}
	defer done()
	ticker := time.NewTicker(Heartbeat)
	defer ticker.Stop()
	for {
		if stream.send(now, seen) != nil || now.AtRest {
			return
		}
		select {
		case <-changes:
		case <-time.After(pollEvery):
		case <-ticker.C:
			if stream.Beat() != nil {
				return
			}
		case <-a.server.Stopping:
			return
		case <-r.Context().Done():
			return
		}
		if now, err = read(r.Context()); err != nil {
			return // the client reconnects, and receives the problem if the error persists
		}
	}
}

// news reports whether a part has a version that the client has not received.
func (s Snapshot) news(seen []int) bool {
	for i, part := range s.Parts {
		if part.Version > seen[i] {
			return true
		}
	}
	return false
}

// send sends the parts that the client has not received, and stores their versions in seen.
func (s *Stream) send(now Snapshot, seen []int) error {
	for i, part := range slices.Backward(now.Parts) {
		if part.Version <= seen[i] {
			continue
		}
		seen[i] = part.Version
		data, err := json.Marshal(part.Data)
		if err != nil {
			return err
		}
		if err := s.Send(part.Event, eventID(seen), string(data)); err != nil {
			return err
		}
	}
	return nil
}

// eventID is the id of an event: the versions of all parts, such as "5-9".
func eventID(versions []int) string {
	texts := make([]string, len(versions))
	for i, v := range versions {
		texts[i] = strconv.Itoa(v)
	}
	return strings.Join(texts, "-")
}

// lastSeen parses the id of the last event that a client received before it was interrupted. If the id does not belong to this stream, all versions
// are 0, so that all parts are sent.
func lastSeen(id string, parts int) (versions []int, resumed bool) {
	texts := strings.Split(id, "-")
	versions = make([]int, parts)
	if len(texts) != parts {
		return versions, false
	}
	for i, text := range texts {
		v, err := strconv.Atoi(text)
		if err != nil || v < 0 {
			return make([]int, parts), false
		}
		versions[i] = v
		resumed = resumed || v > 0
	}
	return versions, resumed
}
