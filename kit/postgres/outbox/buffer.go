// Messages that this instance has committed, so that the relay need not read them. The table decides: a message is sent only if its row was read, so a lost or extra entry
// changes nothing but the work. TestEveryKeyArrivesInOrder and TestRelaysKeepKeyOrderWhenLeasesAreLost show it.

package outbox

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// maxBuffered and maxBufferedBytes limit the messages in the buffer. The relay reads further messages from the table. What stays for longer than
// maxBufferedFor waits for the broker, or was relayed by another relay.
const (
	maxBuffered      = 20_000
	maxBufferedBytes = 32 << 20
	maxBufferedFor   = time.Minute
)

type buffered struct {
	id int64
	at time.Time
}

// buffer holds messages that this instance has committed and not relayed yet, by the ids of their rows, so that the relay need not read them.
// The table decides: a message whose row is gone is not sent, and a row without a buffered message is read.
type buffer struct {
	mu       sync.Mutex
	messages map[int64]*Message
	keys     map[keyed]int // of messages
	order    []buffered
	bytes    int
	commits  map[chan struct{}]bool // commits of this instance that are running
	early    map[int64]bool         // rows that were sent and deleted before their running commits have called Offer
}

func newBuffer() *buffer {
	return &buffer{messages: map[int64]*Message{}, keys: map[keyed]int{}, commits: map[chan struct{}]bool{}, early: map[int64]bool{}}
}

// Offer buffers messages that this instance has committed, and wakes their lanes. It returns the messages that another relay must send. It does not block.
func (r *Relay) Offer(written []*Message) (ofOthers []*Message) {
	holds := r.leases.holds()
	held := len(holds) > 0
	for _, w := range written {
		if !holds[w.shard()] && w.Message.Metadata[cqrs.HeaderDue] == "" { // this relay promotes delayed ones
			ofOthers = append(ofOthers, w)
		}
	}
	var highest int64
	for _, w := range written {
		highest = max(highest, w.ID)
	}
	for _, l := range r.lanes {
		if held {
			l.marks.note(highest)
		}
	}
	written = r.handed.notHandedOver(written)
	defer r.wakeFor(written)
	if !held {
		return ofOthers
	}
	r.buffer.mu.Lock()
	defer r.buffer.mu.Unlock()
	now := time.Now()
	for _, w := range written {
		k := keyOfMessage(w)
		if w.ID == 0 || w.Message.Metadata[cqrs.HeaderDue] != "" || !holds[w.shard()] {
			continue
		}
		if r.buffer.early[w.ID] {
			delete(r.buffer.early, w.ID)
			continue
		}
		r.buffer.messages[w.ID] = w
		r.buffer.keys[k]++
		r.buffer.order = append(r.buffer.order, buffered{w.ID, now})
		r.buffer.bytes += w.size
	}
	r.buffer.trim()
	return ofOthers
}

// wakeFor wakes the lanes of the messages. It wakes the timer goroutine only if a delayed message is due before that goroutine's next look.
func (r *Relay) wakeFor(written []*Message) {
	for _, w := range written {
		if due := w.Message.Metadata[cqrs.HeaderDue]; due != "" {
			at, err := time.Parse(time.RFC3339Nano, due)
			if err != nil || at.UnixNano() < r.nextLook.Load() {
				wake(r.timers)
			}
			continue
		}
		local := slices.Contains(r.options.Local, w.Topic)
		for _, l := range r.lanes {
			if l.local == local {
				wake(l.wake)
			}
		}
	}
}

// Committing marks the beginning of a commit of this instance. Offer is called for its messages before done. Between the commit and Offer the
// relay sees rows whose messages are not in the buffer yet, and waits for done before it reads them from the table.
func (r *Relay) Committing() (done func()) {
	c := make(chan struct{})
	r.buffer.mu.Lock()
	defer r.buffer.mu.Unlock()
	r.buffer.commits[c] = true
	return func() {
		r.buffer.mu.Lock()
		defer r.buffer.mu.Unlock()
		delete(r.buffer.commits, c)
		if len(r.buffer.commits) == 0 {
			clear(r.buffer.early)
		}
		close(c)
	}
}

// maxCommitWait limits how long rows of other instances wait for a commit of this instance.
const maxCommitWait = 20 * time.Millisecond

// waitForCommits waits until the running commits have offered their messages.
func (b *buffer) waitForCommits() {
	b.mu.Lock()
	commits := slices.Collect(maps.Keys(b.commits))
	b.mu.Unlock()
	enough := time.After(maxCommitWait)
	for _, c := range commits {
		select {
		case <-c:
		case <-enough:
			return
		}
	}
}

// fill adds the buffered messages to rows of which only the id is known, and returns the ids of the other rows.
func (b *buffer) fill(rows []outboxRow) (missing []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range rows {
		row := &rows[i]
		if row.message != nil {
			continue
		}
		w := b.drop(row.ID)
		if row.Headers != nil {
			continue
		}
		if w != nil {
			row.Topic, row.Key, row.message = w.Topic, w.Message.Metadata[cqrs.HeaderKey], w.Message
		} else {
			missing = append(missing, row.ID)
		}
	}
	return missing
}

// trim drops the oldest messages until the buffer is within its limits.
func (b *buffer) trim() {
	n, now := 0, time.Now()
	for n < len(b.order) && (len(b.messages) > maxBuffered || b.bytes > maxBufferedBytes || b.messages[b.order[n].id] == nil || now.Sub(b.order[n].at) > maxBufferedFor) {
		b.drop(b.order[n].id)
		n++
	}
	b.order = b.order[n:]
	if len(b.order) > 2*len(b.messages)+1000 { // behind one that stays
		b.order = slices.DeleteFunc(b.order, func(m buffered) bool { return b.messages[m.id] == nil })
	}
}

// maxEarly limits early, because at any time some commit may be running. Messages beyond it stay in the buffer for maxBufferedFor.
const maxEarly = 10_000

// forget drops the messages of rows that were deleted.
func (b *buffer) forget(rows []outboxRow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, row := range rows {
		if b.drop(row.ID) != nil || row.Headers == nil || len(b.commits) == 0 {
			continue
		}
		if len(b.early) >= maxEarly {
			clear(b.early)
		}
		b.early[row.ID] = true // it was read from the table
	}
}

func keyOfMessage(w *Message) keyed { return keyed{w.Topic, w.Message.Metadata[cqrs.HeaderKey]} }

func (b *buffer) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.messages)
}

func (b *buffer) hasKey(topic, key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keys[keyed{topic, key}] > 0
}

func (b *buffer) drop(id int64) *Message {
	w := b.messages[id]
	if w != nil {
		b.bytes -= w.size
		delete(b.messages, id)
		if k := keyOfMessage(w); b.keys[k] > 1 {
			b.keys[k]--
		} else {
			delete(b.keys, k)
		}
	}
	return w
}

func (b *buffer) empty() bool { return b.size() == 0 }
