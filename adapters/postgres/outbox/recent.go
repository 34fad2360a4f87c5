package outbox

import (
	"sync"

	"github.com/millrace/millrace/app"
)

// maxRecent bounds the messages that are kept for the relay, and maxRecentBytes what they take. What is more is read from the table.
const (
	maxRecent      = 20_000
	maxRecentBytes = 32 << 20
)

// recent are messages that this instance has committed and that are on their way to the relay in memory, by the numbers of their rows.
// The table stays the truth: a row that is not there is not sent, and one that is only there is read.
type recent struct {
	mu       sync.Mutex
	messages map[int64]*Written
	order    []int64
	bytes    int
}

func newRecent() *recent { return &recent{messages: map[int64]*Written{}} }

// Offer hands over what was committed here. It does not block.
func (r *Relay) Offer(written []*Written) {
	if r.Held() == 0 {
		return
	}
	r.recent.mu.Lock()
	defer r.recent.mu.Unlock()
	for _, w := range written {
		if w.ID == 0 || w.Message.Metadata[app.HeaderDue] != "" {
			continue
		}
		r.recent.messages[w.ID] = w
		r.recent.order = append(r.recent.order, w.ID)
		r.recent.bytes += w.size
	}
	r.recent.trim()
}

// trim forgets the oldest until the rest is within the bounds.
func (r *recent) trim() {
	n := 0
	for n < len(r.order) && (len(r.messages) > maxRecent || r.bytes > maxRecentBytes || r.messages[r.order[n]] == nil) {
		r.drop(r.order[n])
		n++
	}
	r.order = r.order[n:]
}

func (r *recent) drop(id int64) *Written {
	w := r.messages[id]
	if w != nil {
		r.bytes -= w.size
		delete(r.messages, id)
	}
	return w
}

func (r *recent) take(id int64) *Written {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drop(id)
}

func (r *recent) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.messages) == 0
}
