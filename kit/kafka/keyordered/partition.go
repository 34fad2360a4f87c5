// Order and concurrency of one partition. The messages of a key start in the order in which they arrived, and never more messages are in flight than
// the limits allow. TestPartitionFollowsTheModel and TestOfferedMessagesFollowTheModel show it.

package keyordered

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// partition delivers the records of one assigned partition: records of different keys concurrently, records of a key in order. It marks the offset
// below which all records are acknowledged.
type partition struct {
	config Config
	topic  string
	out    chan<- *message.Message
	mark   func(next int64) // commits offsets below next
	bytes  *budget

	stop    context.Context //nolint:containedctx // done: start no record any more
	base    context.Context //nolint:containedctx // of the messages; cancelled when the partition is lost
	running sync.WaitGroup

	mu       sync.Mutex
	room     chan struct{} // signals that a record has ended
	inFlight int           // records admitted and not acknowledged
	window   []*entry      // records from the lowest unacknowledged one on, by offset
	keys     map[string]*queue
	offers   map[string]int // number of offered messages that are not done, by key
	position int64          // the offset after the last admitted record
	closing  bool           // no more messages are accepted
	lost     bool           // no more offsets are marked

	waitsSince time.Time // since when a record waits for messages in flight to end; zero: no record waits
}

// entry is a record that was admitted, a message that was offered, or a claim.
type entry struct {
	record  *sarama.ConsumerMessage // nil after it was acknowledged, if it is skipped, and for an offered message
	message *message.Message        // the offered message
	done    func(acked bool)        // Done of the offered message
	offset  int64
	size    int
	key     string
	link    any
	with    func(context.Context) context.Context // makes the context of the first delivery; nil: unchanged
}

// queue has the entries of a key.
type queue struct {
	inFlight int
	last     any // the link of the latest entry that has started
	waiting  []*entry
}

func newPartition(c Config, topic string, stop, base context.Context, out chan<- *message.Message, bytes *budget, mark func(int64)) *partition {
	return &partition{
		config: c, topic: topic, out: out, mark: mark, bytes: bytes, stop: stop, base: base,
		room: make(chan struct{}, 1), keys: map[string]*queue{}, offers: map[string]int{},
	}
}

// admit admits a record as soon as there is room for it. It returns false if the partition stops first.
func (p *partition) admit(record *sarama.ConsumerMessage) bool {
	e := &entry{offset: record.Offset}
	skip := p.skips(record)
	if !skip {
		e.record, e.size, e.key = record, size(record), p.key(record)
	}
	for {
		p.mu.Lock()
		if len(p.window) < p.config.MaxAhead && (skip || p.inFlight < p.config.MaxInFlight && p.bytes.take(e.size, p.inFlight == 0)) {
			p.window = append(p.window, e)
			p.position, p.waitsSince = e.offset+1, time.Time{}
			if skip {
				p.advance()
			} else {
				p.inFlight++
				p.enqueue(e)
			}
			p.mu.Unlock()
			return true
		}
		if p.waitsSince.IsZero() && len(p.window) < p.config.MaxAhead {
			p.waitsSince = time.Now()
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-p.bytes.freed():
		case <-p.stop.Done():
			return false
		}
	}
}

// advance marks the offset below which all records are acknowledged. The caller holds the lock.
func (p *partition) advance() {
	done := 0
	for done < len(p.window) && p.window[done].record == nil {
		done++
	}
	if done > 0 {
		p.mark(p.window[done-1].offset + 1)
		clear(p.window[:done]) // for the garbage collector
		p.window = p.window[done:]
	}
}

// enqueue starts an entry, or makes it wait if Run earlier entries of its key are in flight. An entry without a key does not wait. The caller holds
// the lock.
func (p *partition) enqueue(e *entry) {
	if e.key == "" {
		p.begin(e, nil)
		return
	}
	q := p.keys[e.key]
	if q == nil {
		q = &queue{}
		p.keys[e.key] = q
	}
	if q.inFlight == p.config.Run {
		q.waiting = append(q.waiting, e)
		return
	}
	p.begin(e, q)
}

func (p *partition) begin(e *entry, q *queue) {
	var before any
	if q != nil {
		q.inFlight++
		before = q.last
	}
	acknowledged := func() {}
	if p.config.Link != nil {
		e.link, acknowledged = p.config.Link(before)
	}
	if q != nil {
		q.last = e.link
	}
	record := e.record
	p.running.Go(func() { p.deliver(e, record, acknowledged) })
}

// next starts the next waiting entry of a key after an entry of the key has ended. The caller holds the lock.
func (p *partition) next(key string) {
	q := p.keys[key]
	if q == nil {
		return
	}
	q.inFlight--
	switch {
	case len(q.waiting) > 0 && p.stop.Err() == nil:
		following := q.waiting[0]
		q.waiting = q.waiting[1:]
		p.begin(following, q)
	case q.inFlight == 0 && len(q.waiting) == 0:
		delete(p.keys, key)
	}
}
