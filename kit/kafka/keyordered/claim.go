// Claimed keys: the records of a claimed key wait, as they wait behind a message in flight. The owner of the claim may have one message delivered
// before them. TestClaimedKeyWaits and TestOfferedMessagesFollowTheModel show it.

package keyordered

import (
	"context"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Claim reserves a key: its messages are not delivered until Release, or until the message of Deliver is done. Call exactly one of the two; later
// calls have no effect. A Claim is safe for concurrent use.
type Claim struct {
	p            *partition
	e            *entry
	acknowledged func()
	used         atomic.Bool
}

// claimed is the message of a claim's entry until Deliver sets another one.
var claimed = message.NewMessage("claimed", nil)

// Claim reserves a key of a partition. It returns nil if this member does not have the partition, has not received the records with an offset below
// after, has a message of the key, or has no room for a message, or if the key is empty.
func (s *Subscriber) Claim(topic string, partition int32, key string, after int64) *Claim {
	s.mu.Lock()
	p := s.claimed[place{topic, partition}]
	s.mu.Unlock()
	if p == nil || key == "" {
		return nil
	}
	return p.claimKey(key, after)
}

func (p *partition) claimKey(key string, after int64) *Claim {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys[key] != nil || p.offers[key] > 0 || !p.accepts(Offered{Key: key, After: after}) {
		return nil
	}
	c := &Claim{p: p, e: &entry{key: key, message: claimed, done: func(bool) {}}, acknowledged: func() {}}
	q := &queue{inFlight: 1}
	if p.config.Link != nil {
		c.e.link, c.acknowledged = p.config.Link(nil)
		q.last = c.e.link
	}
	p.keys[key] = q
	p.offers[key]++
	p.inFlight++
	p.running.Add(1)
	return c
}

// Release ends the claim without a message.
func (c *Claim) Release() {
	if c.used.Swap(true) {
		return
	}
	defer c.p.running.Done()
	c.acknowledged()
	c.p.finish(c.e)
}

// Deliver delivers a message as Subscriber.Offer does, before the messages of the key that wait. It does not block. If with is not nil, it makes the
// context of the first delivery. Done is called once, as Offered.Done.
func (c *Claim) Deliver(msg *message.Message, with func(context.Context) context.Context, done func(acked bool)) {
	if c.used.Swap(true) {
		return
	}
	c.e.message, c.e.done, c.e.with, c.e.size = msg, done, with, sizeOf(msg)
	c.p.bytes.take(c.e.size, true)
	go func() {
		defer c.p.running.Done()
		c.p.deliver(c.e, nil, c.acknowledged)
	}()
}

// sizeOf returns the approximate size of an offered message in bytes.
func sizeOf(msg *message.Message) int { return len(msg.Payload) + 64 }
