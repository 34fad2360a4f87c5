// Messages that come without the broker. One is taken only if it is the next of its key, is done once, and leaves room for records.
// TestOfferedMessagesFollowTheModel, TestOfferedMessageWaitsForAnEarlierClaim and TestBusyKeyLeavesRoomForRecords show it.

package keyordered

import (
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Offered is a message that is delivered without the broker.
type Offered struct {
	Topic, Key string
	Partition  int32

	// After is an offset: the message is refused until the records below it were received, because they may be earlier messages of its key.
	After int64

	// More says that an earlier message of the key was taken and is not done. Then the message is taken even if the partition has
	// MaxInFlight messages already, up to moreInFlight times as many. It is refused if the earlier message is still active since before the
	// partition was taken away and claimed again, because it would not wait for that message.
	More bool

	Message *message.Message

	// Done is called once if the message was taken. Acked false: it was not handled, because the partition was taken away or the subscriber
	// closed, and it will not be.
	Done func(acked bool)
}

const (
	moreInFlight = 16

	// maxRecordWait is for how long a record waits for room while messages are taken with More: those of a busy key could take it for ever.
	maxRecordWait = time.Second
)

// Offer delivers a message as if it were the next record of its partition, if this member has the partition. Taken false: it does not, or has
// no room, or has not received all earlier records; the message is then to be sent to the broker, unless More was true.
func (s *Subscriber) Offer(o Offered) (taken bool) {
	s.mu.Lock()
	p := s.claimed[place{o.Topic, o.Partition}]
	s.mu.Unlock()
	return p != nil && p.offered(o)
}

type place struct {
	topic     string
	partition int32
}

// HasAll tells whether this member has all partitions of a topic.
func (s *Subscriber) HasAll(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.whole[topic]
	return held != nil && held.Err() == nil
}

// Remade is how often a topic was found, for the first time or as another one of the same name. What was known of offsets before means nothing then.
func (s *Subscriber) Remade(topic string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remade[topic]
}

// Given tells for each partition of a topic whether the group has given it to this member. While members come and go, it says what was before.
func (s *Subscriber) Given(topic string) (partitions []bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given[topic] // not changed any more
}

func (s *Subscriber) claim(at place, p *partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimed[at] = p
}

func (s *Subscriber) unclaim(at place, p *partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claimed[at] == p {
		delete(s.claimed, at)
	}
}

func (p *partition) offered(o Offered) (taken bool) {
	e := &entry{message: o.Message, done: o.Done, size: sizeOf(o.Message), key: o.Key}
	p.mu.Lock()
	if !p.accepts(o) || !p.bytes.take(e.size, false) {
		p.mu.Unlock()
		return false
	}
	p.inFlight++
	p.offers[o.Key]++
	p.enqueue(e)
	p.mu.Unlock()
	return true
}

// accepts tells whether a message may be taken now, if there are bytes for it. It is called under the lock.
func (p *partition) accepts(o Offered) bool {
	switch {
	case p.closing || p.stop.Err() != nil || p.position < o.After:
		return false
	case o.More:
		return p.offers[o.Key] > 0 && p.inFlight < moreInFlight*p.config.MaxInFlight && (p.waitsSince.IsZero() || time.Since(p.waitsSince) < maxRecordWait)
	default: // a record that waits comes first, else offered messages could take the room again and again
		return p.waitsSince.IsZero() && p.inFlight < p.config.MaxInFlight
	}
}

// ended notes that an offered message is done. Only then it is no longer counted: until Done was called, the next message of its key comes with
// More.
func (p *partition) ended(e *entry, acked bool) {
	e.done(acked)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.offers[e.key]--; p.offers[e.key] == 0 {
		delete(p.offers, e.key)
	}
}

// giveBack returns the offered messages that wait and will not be delivered any more.
func (p *partition) giveBack() {
	p.mu.Lock()
	var back []*entry
	for _, q := range p.keys {
		q.waiting = slices.DeleteFunc(q.waiting, func(e *entry) bool {
			if e.message != nil {
				back = append(back, e)
			}
			return e.message != nil
		})
	}
	p.mu.Unlock()
	for _, e := range back {
		p.bytes.give(e.size)
		p.ended(e, false)
	}
}
