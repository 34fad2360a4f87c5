package keyordered

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// partition delivers the records of one claimed partition: records of different keys concurrently, records of one key one after the other. It
// marks the offset below which all records are acknowledged.
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
	window   []*entry      // records from the lowest unacknowledged one on, in the order of offsets
	keys     map[string]*queue
	offers   map[string]int // messages that were offered and are not done, by key
	position int64          // of the record that is admitted next
	closing  bool           // nothing is taken any more
	lost     bool           // no offset is marked any more

	waitsSince time.Time // since when a record waits for messages in flight to end; zero: none does
}

// entry is a record that was admitted, or a message that was offered.
type entry struct {
	record  *sarama.ConsumerMessage // nil once it is acknowledged, and if it was offered
	message *message.Message        // that was offered
	done    func(acked bool)        // of the offered one
	offset  int64
	size    int
	key     string
	link    any
}

// queue is the entries of a key.
type queue struct {
	inFlight int
	last     any // link of the latest entry that has begun
	waiting  []*entry
}

func newPartition(c Config, topic string, stop, base context.Context, out chan<- *message.Message, bytes *budget, mark func(int64)) *partition {
	return &partition{
		config: c, topic: topic, out: out, mark: mark, bytes: bytes, stop: stop, base: base,
		room: make(chan struct{}, 1), keys: map[string]*queue{}, offers: map[string]int{},
	}
}

// admit accepts a record when there is room for it. It returns false if the partition stops first.
func (p *partition) admit(record *sarama.ConsumerMessage) bool {
	e := &entry{record: record, offset: record.Offset, size: size(record), key: p.key(record)}
	for {
		p.mu.Lock()
		if p.inFlight < p.config.MaxInFlight && len(p.window) < p.config.MaxAhead && p.bytes.take(e.size, p.inFlight == 0) {
			p.inFlight++
			p.window = append(p.window, e)
			p.position, p.waitsSince = e.offset+1, time.Time{}
			p.enqueue(e)
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

// fresh makes the message of an entry for one delivery.
func (p *partition) fresh(e *entry, record *sarama.ConsumerMessage) *message.Message {
	if e.message != nil {
		return e.message.Copy()
	}
	return p.unmarshal(record)
}

// key is the key of a record. If the Key function panics, the record is ordered by its own key, so that the panic does not end the process.
func (p *partition) key(record *sarama.ConsumerMessage) (key string) {
	err := protect(func() error { key = p.config.Key(record); return nil })
	if err != nil {
		p.config.Logger.Error("Key function panicked", err, p.fields(record))
		return string(record.Key)
	}
	return key
}

// MetadataError is the metadata key of a message whose record could not be unmarshaled: its value is the error. The payload, the key and the
// headers are the record's bytes.
const MetadataError = "unmarshal_error"

// unmarshal converts a record with any bytes into a message. A record that was never delivered would block its key for ever, and its
// partition after MaxAhead further records.
func (p *partition) unmarshal(record *sarama.ConsumerMessage) (msg *message.Message) {
	err := protect(func() (err error) {
		msg, err = p.config.Unmarshaler.Unmarshal(record)
		return err
	})
	if err == nil {
		return msg
	}
	p.config.Logger.Error("Cannot unmarshal a record", err, p.fields(record))
	msg = message.NewMessage(fmt.Sprintf("%s/%d/%d", p.topic, record.Partition, record.Offset), record.Value)
	for _, h := range record.Headers {
		msg.Metadata.Set(string(h.Key), string(h.Value))
	}
	msg.Metadata.Set("key", string(record.Key))
	msg.Metadata.Set(MetadataError, err.Error())
	return msg
}

func (p *partition) fields(record *sarama.ConsumerMessage) watermill.LogFields {
	return watermill.LogFields{"topic": p.topic, "partition": record.Partition, "offset": record.Offset}
}

// protect returns a panic of f as an error.
func protect(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v\n%s", value, debug.Stack())
		}
	}()
	return f()
}

// enqueue starts an entry, or makes it wait if Run earlier ones of its key are in flight. An entry without a key does not wait. It is called under
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

// next starts the next entry of a key whose entry has ended. It is called under the lock.
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

// deliver delivers a record until it is acknowledged. If the partition stops or is lost first, no offset is marked, and an offered message is given
// back.
func (p *partition) deliver(e *entry, record *sarama.ConsumerMessage, acknowledged func()) {
	for pause := p.config.NackPause; ; pause = min(2*pause, 100*p.config.NackPause) {
		msg := p.fresh(e, record)
		ctx, cancel := context.WithCancel(p.base)
		if e.link != nil {
			ctx = p.config.WithLink(ctx, e.link)
		}
		msg.SetContext(ctx)
		done := p.offer(msg)
		cancel()
		if done {
			acknowledged()
			p.finish(e)
			return
		}
		select {
		case <-p.stop.Done():
			if e.message != nil {
				p.bytes.give(e.size)
				p.ended(e, false)
			}
			return
		case <-time.After(pause):
		}
	}
}

// offer delivers a message once, and tells whether it was acknowledged.
func (p *partition) offer(msg *message.Message) bool {
	select {
	case p.out <- msg:
	case <-p.stop.Done():
		return false
	}
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		return false
	}
}

// finish records an acknowledgement, and marks the offset below which all records are acknowledged.
func (p *partition) finish(e *entry) {
	if e.message != nil {
		defer p.ended(e, true)
	}
	p.mu.Lock()
	if p.lost {
		p.mu.Unlock()
		if e.message != nil {
			p.bytes.give(e.size)
		}
		return
	}
	e.record = nil
	p.inFlight--
	done := 0
	for done < len(p.window) && p.window[done].record == nil {
		done++
	}
	if done > 0 {
		p.mark(p.window[done-1].offset + 1)
		clear(p.window[:done]) // free them
		p.window = p.window[done:]
	}
	p.next(e.key)
	p.mu.Unlock()
	p.bytes.give(e.size)
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// drain waits until the active records have ended or patience is over. Then it cancels the remaining ones and waits for them.
func (p *partition) drain(patience time.Duration, lose context.CancelFunc) {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.giveBack()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.running.Wait()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		lose()
		select {
		case <-done:
		case <-time.After(patience):
			p.config.Logger.Error("Handlers are still active after their partition was lost", nil, map[string]any{"topic": p.topic})
		}
	}
	lose()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
	for _, e := range p.window {
		if e.record != nil {
			p.bytes.give(e.size)
		}
	}
}

func size(r *sarama.ConsumerMessage) int {
	n := len(r.Key) + len(r.Value) + 64
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// budget limits the bytes of all records in flight. A partition without a record in flight always gets one, however large, so that every
// partition makes progress.
type budget struct {
	mu      sync.Mutex
	left    int
	waiting chan struct{} // nil: nobody waits
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
