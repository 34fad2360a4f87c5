package postgres

import (
	"sync"

	"github.com/millrace/millrace/kit/cqrs"
)

// Watch notifies subscribers on this instance of commits to streams.
type Watch struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]struct{}
}

// NewWatch makes a Watch without subscribers.
func NewWatch() *Watch { return &Watch{waiting: map[string]map[chan struct{}]struct{}{}} }

// anyStream stands for all streams.
const anyStream = ""

// Streams watches some streams, or all if none is named. The channel holds at most one notification; stop ends the watch.
func (w *Watch) Streams(streams ...string) (changes <-chan struct{}, stop func()) {
	if len(streams) == 0 {
		streams = []string{anyStream}
	}
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range streams {
		if w.waiting[s] == nil {
			w.waiting[s] = map[chan struct{}]struct{}{}
		}
		w.waiting[s][c] = struct{}{}
	}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range streams {
			delete(w.waiting[s], c)
			if len(w.waiting[s]) == 0 {
				delete(w.waiting, s)
			}
		}
	}
}

// Committed notifies the subscribers of the events' streams.
func (w *Watch) Committed(events []cqrs.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		w.tell(e.Meta.Subject)
	}
	if len(events) > 0 {
		w.tell(anyStream)
	}
}

func (w *Watch) tell(stream string) {
	for c := range w.waiting[stream] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
