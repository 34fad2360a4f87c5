// The limit of the bytes in flight. No partition waits for it forever. TestPartitionFollowsTheModel shows it.

package keyordered

import (
	"sync"

	"github.com/IBM/sarama"
)

func size(r *sarama.ConsumerMessage) int {
	n := len(r.Key) + len(r.Value) + 64
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// budget limits the bytes of all records in flight. A partition without a record in flight always gets one record, however large, so that every
// partition makes progress.
type budget struct {
	mu      sync.Mutex
	left    int
	waiting chan struct{} // closed by give; nil: no partition waits
}

func newBudget(n int) *budget { return &budget{left: n} }

func (b *budget) take(n int, must bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left && !must {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.waiting != nil {
		close(b.waiting)
		b.waiting = nil
	}
}

func (b *budget) freed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = make(chan struct{})
	}
	return b.waiting
}
