// Keys that are claimed: their messages wait, as they wait for a message that is handled. Who has claimed a key may have a message delivered before them.
// TestClaimedKeyWaits and TestOfferedMessagesFollowTheModel show it.

package keyordered

import (
	"context"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Claim is a key whose messages are not delivered until Release, or until a message that Deliver was given is done. One of the two is to be called; the calls
// after the first one do nothing.
type Claim struct {
	p            *partition
	e            *entry
	acknowledged func()
	used         atomic.Bool
}

// claimed marks the entry of a claim, which has no message yet.
var claimed = message.NewMessage("claimed", nil)

// Claim claims a key. Nil: this member does not have the partition, has not received the records below the offset after, or has a message of the key.
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

// Release ends the claim.
func (c *Claim) Release() {
	if c.used.Swap(true) {
		return
	}
	defer c.p.running.Done()
	c.acknowledged()
	c.p.finish(c.e)
}

// Deliver delivers a message as Subscriber.Offer does, before those that wait. With, if it is not nil, adds to the context of the first delivery.
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

// sizeOf is the size of an offered message, in bytes, about.
func sizeOf(msg *message.Message) int { return len(msg.Payload) + 64 }
