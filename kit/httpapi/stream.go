package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// writeWithin is how long a client may take to accept an event. Then the stream ends, so that a client that reads nothing cannot hold a connection.
const writeWithin = 10 * time.Second

// Heartbeat is the interval at which an event stream sends a comment, so that no proxy closes the stream as idle.
const Heartbeat = 15 * time.Second

// Streams opens event streams and limits how many are open in an instance. It is safe for concurrent use. The zero value has no limit.
type Streams struct {
	Max         int           // 0: no limit
	WriteWithin time.Duration // how long a client may take to accept an event; 0: 10 seconds
	open        atomic.Int64
}

// Open is the number of open streams.
func (s *Streams) Open() int { return int(s.open.Load()) }

// Stream is an open stream of server-sent events. It is not safe for concurrent use.
type Stream struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	within time.Duration
}

// Begin opens a stream and sends the headers. The caller must call done at the end of the stream. Stream and done are nil if there is an error, or if
// the request is a HEAD, which Begin has answered. The error is a *RequestError with status 503 if as many streams are open as Max allows.
func (s *Streams) Begin(w http.ResponseWriter, r *http.Request) (stream *Stream, done func(), err error) {
	if n := s.open.Add(1); s.Max > 0 && n > int64(s.Max) {
		s.open.Add(-1)
		return nil, nil, &RequestError{
			Status: http.StatusServiceUnavailable, RetryAfter: 5,
			Detail: fmt.Sprintf("this instance has as many event streams open as MAX_STREAMS allows: %d", s.Max),
		}
	}
	done = func() { s.open.Add(-1) }
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back until its buffer is full
	if r.Method == http.MethodHead {
		done()
		w.WriteHeader(http.StatusOK)
		return nil, nil, nil
	}
	stream = &Stream{w, http.NewResponseController(w), cmp.Or(s.WriteWithin, writeWithin)}
	if err := stream.write(""); err != nil { // sends the headers at once
		done()
		return nil, nil, err
	}
	return stream, done, nil
}

// Send sends an event and flushes it. Name and id may be empty. The error says that the client has not accepted the event in time.
func (s *Stream) Send(name, id, data string) error {
	var b strings.Builder
	if name != "" {
		b.WriteString("event: " + name + "\n")
	}
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("data: " + strings.ReplaceAll(strings.ReplaceAll(data, "\r", ""), "\n", "\ndata: ") + "\n\n")
	return s.write(b.String())
}

// Beat sends a comment, so that no proxy closes the stream as idle.
func (s *Stream) Beat() error { return s.write(": still here\n\n") }

func (s *Stream) write(text string) error {
	if err := s.out.SetWriteDeadline(time.Now().Add(s.within)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprint(s.w, text); err != nil {
		return err
	}
	return s.out.Flush()
}
