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

// writeWithin is how long a client may take to accept an event. One that accepts nothing is cut off, instead of holding a connection.
const writeWithin = 10 * time.Second

// Heartbeat is how often an idle stream sends a comment, so that no proxy on the way closes it.
const Heartbeat = 15 * time.Second

// Streams limits the open event streams of an instance.
type Streams struct {
	Max         int           // 0: any number
	WriteWithin time.Duration // how long a client may take to accept an event; 0: writeWithin
	open        atomic.Int64
}

// Open is the number of open streams.
func (s *Streams) Open() int { return int(s.open.Load()) }

// Stream is an open stream of server-sent events.
type Stream struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	within time.Duration
}

// Begin opens a stream. The stream is nil if there is an error, or if the request was a HEAD and is answered. Call done at the end of the
// stream.
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
	if err := stream.write(""); err != nil { // the headers, at once
		done()
		return nil, nil, err
	}
	return stream, done, nil
}

// Send sends an event. Name and id may be empty.
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

// Beat sends a comment.
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
