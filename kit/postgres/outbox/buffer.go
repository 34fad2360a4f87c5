package outbox

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// maxBuffered bounds the messages that are kept for the relay, and maxRecentBytes what they take. What is more is read from the table.
const (
	maxBuffered      = 20_000
	maxBufferedBytes = 32 << 20
)

// buffer are messages that this instance has committed and that are on their way to the relay in memory, by the numbers of their rows.
// The table stays the truth: a row that is not there is not sent, and one that is only there is read.
type buffer struct {
	mu       sync.Mutex
	messages map[int64]*Message
	order    []int64
	bytes    int
	commits  map[chan struct{}]bool // commits under way here
}

func newBuffer() *buffer {
	return &buffer{messages: map[int64]*Message{}, commits: map[chan struct{}]bool{}}
}

// Offer hands over what was committed here, and has it relayed. It does not block.
func (r *Relay) Offer(written []*Message) {
	defer r.wakeFor(written)
	if r.Held() == 0 {
		return
	}
	r.buffer.mu.Lock()
	defer r.buffer.mu.Unlock()
	for _, w := range written {
		if w.ID == 0 || w.Message.Metadata[cqrs.HeaderDue] != "" {
			continue
		}
		r.buffer.messages[w.ID] = w
		r.buffer.order = append(r.buffer.order, w.ID)
		r.buffer.bytes += w.size
	}
	r.buffer.trim()
}

// wakeFor wakes who has to do with what was written: the timers only if one is due before they look by themselves.
func (r *Relay) wakeFor(written []*Message) {
	timers := len(r.wake) - 1
	for _, w := range written {
		if due := w.Message.Metadata[cqrs.HeaderDue]; due != "" {
			at, err := time.Parse(time.RFC3339Nano, due)
			if err != nil || at.UnixNano() < r.looks.Load() {
				wake(r.wake[timers])
			}
		}
	}
	for _, worker := range r.wake[:timers] {
		wake(worker)
	}
}

// Committing is told of a commit here that begins; what it offers is offered before done is called. Until then others see its rows, and
// only the relay does not know yet that it has them.
func (r *Relay) Committing() (done func()) {
	c := make(chan struct{})
	r.buffer.mu.Lock()
	defer r.buffer.mu.Unlock()
	r.buffer.commits[c] = true
	return func() {
		r.buffer.mu.Lock()
		defer r.buffer.mu.Unlock()
		delete(r.buffer.commits, c)
		close(c)
	}
}

// maxCommitWait bounds how long a row of somebody else's waits for a commit here.
const maxCommitWait = 20 * time.Millisecond

// waitForCommits waits for the commits that are under way.
func (r *buffer) waitForCommits() {
	r.mu.Lock()
	commits := slices.Collect(maps.Keys(r.commits))
	r.mu.Unlock()
	enough := time.After(maxCommitWait)
	for _, c := range commits {
		select {
		case <-c:
		case <-enough:
			return
		}
	}
}

// trim forgets the oldest until the rest is within the bounds.
func (r *buffer) trim() {
	n := 0
	for n < len(r.order) && (len(r.messages) > maxBuffered || r.bytes > maxBufferedBytes || r.messages[r.order[n]] == nil) {
		r.drop(r.order[n])
		n++
	}
	r.order = r.order[n:]
}

func (r *buffer) drop(id int64) *Message {
	w := r.messages[id]
	if w != nil {
		r.bytes -= w.size
		delete(r.messages, id)
	}
	return w
}

func (r *buffer) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.messages) == 0
}
