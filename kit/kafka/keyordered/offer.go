// Messages that are delivered without the broker. A message is accepted only if it is the next message of its key and leaves room for records; its
// Done is called once. TestOfferedMessagesFollowTheModel, TestOfferedMessageWaitsForAnEarlierClaim and TestBusyKeyLeavesRoomForRecords show it.

package keyordered

import (
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Offered is a message that Offer delivers without the broker.
type Offered struct {
	Topic, Key string
	Partition  int32

	// After is an offset: the message is refused until all records below it were received, because they may be earlier messages of its key.
	After int64

	// More says that an earlier offered message of the key was accepted and is not done. The message is then accepted even if the partition already
	// has MaxInFlight messages, up to 16 times MaxInFlight. It is refused if the earlier message was accepted before the partition was revoked and
	// assigned again, because the message would not wait for it.
	More bool

	Message *message.Message

	// Done is called once if the message was accepted. Acked is false if the message was not acknowledged and will not be delivered again, because
	// the partition was revoked or the subscriber was closed.
	Done func(acked bool)
}

const (
	moreInFlight = 16

	// maxRecordWait is how long a record may wait for room while messages with More are accepted. Without this limit, a busy key could take the room
	// forever.
	maxRecordWait = time.Second
)

// Offer delivers a message as if it were the next record of its partition. It does not block. Taken is false if this member does not have the
// partition, has no room, or has not received all earlier records. The message must then be sent to the broker, or offered again if More was true.
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

// Remade returns how often a session of this member has found a topic for the first time or recreated under the same name. Offsets from before the
// last time are invalid.
func (s *Subscriber) Remade(topic string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remade[topic]
}

// Given tells for each partition of a topic whether the group has assigned it to this member. During a rebalance it returns the previous assignment.
// The caller must not change the slice.
func (s *Subscriber) Given(topic string) (partitions []bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given[topic] // hold sets a new slice and never changes this one
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

// accepts tells whether a message may be accepted now if there are bytes for it. The caller holds the lock.
func (p *partition) accepts(o Offered) bool {
	switch {
	case p.closing || p.stop.Err() != nil || p.position < o.After:
		return false
	case o.More:
		return p.offers[o.Key] > 0 && p.inFlight < moreInFlight*p.config.MaxInFlight && (p.waitsSince.IsZero() || time.Since(p.waitsSince) < maxRecordWait)
	default: // a waiting record comes first, otherwise offered messages could take the room again and again
		return p.waitsSince.IsZero() && p.inFlight < p.config.MaxInFlight
	}
}

// ended reports that an offered message is done. The message is counted until then, because Offer of the next message of its key has More set until
// Done was called.
func (p *partition) ended(e *entry, acked bool) {
	e.done(acked)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.offers[e.key]--; p.offers[e.key] == 0 {
		delete(p.offers, e.key)
	}
}

// giveBack reports the offered messages that wait and will not be delivered as not acknowledged.
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
