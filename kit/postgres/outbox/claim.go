// Claims (ADR 38). A command may be handled in the transaction that sends it if no earlier message of its key is left to handle. In memory a claim keeps the key's
// messages from being sent or handled, and the transaction confirms that none waits in a table. TestClaimIsRefused, TestClaimConfirms and, with three processes
// that are killed and paused, kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package outbox

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// Claimer is a Local that can keep the messages of a key from handlers.
type Claimer interface {
	Local

	// Claim keeps the messages of a key from this process's handlers until release is called, or until the message that deliver delivers is done; it is handled
	// before them. The caller must call one of the two. Deliver is nil if another process may handle the key's messages, or some were sent that were not handled
	// yet. Claim must be safe for concurrent use.
	Claim(topic, key string) (release func(), deliver Deliver)
}

// Deliver delivers a message. With, if it is not nil, adds to the context of the first delivery. Done is called once: acked true if it was handled,
// false if it never will be.
type Deliver = func(msg *message.Message, with func(context.Context) context.Context, done func(acked bool))

// Claim is a key whose messages are neither sent nor handled until Release or HandOver. A message that was committed before the claim and not handled is still in a table,
// and Confirm fails the commit.
type Claim struct {
	Topic, Key string

	relay      *Relay
	lane       *lane
	held       *lease
	at         time.Time
	shard      int16
	mark       int64
	generation int64
	handled    []int64 // rows of the key that were handled and are not deleted yet
	ended      atomic.Bool
	disturbed  atomic.Bool
	handledYet bool // Confirm has found that the message, or another one of the same saga, step and branch, was handled
	release    func()
	deliver    Deliver
	wanted     bool // a message of the key waits for the release
}

// Claim claims a key of a local topic. It returns nil if an earlier message of the key may be left to handle, or if another process may have the key's next message. A message that is
// committed after the claim may be handled after the message that the claim is for.
//
// While the claim lasts, this relay does not give the key's shard away, sends no message of the key, and handlers start none. If it loses the lease, Confirm fails.
func (r *Relay) Claim(topic, key string) *Claim {
	c := &Claim{Topic: topic, Key: key, relay: r, shard: ShardOf(topic, key), at: time.Now()}
	if c.lane = r.localLane(); c.lane == nil || key == "" || r.behind() {
		return nil
	}
	near := false
	if c.mark, c.generation, near = c.lane.marks.near(c.shard); !near {
		return nil
	}
	if c.held = r.leases.use(c.shard); c.held == nil {
		return nil
	}
	switch {
	case r.handed.avoids(keyed{topic, key}):
	case r.buffer.hasKey(topic, key), !r.handed.claim(c):
		r.handed.avoid(topic, key)
	default:
		return c
	}
	c.held.done()
	return nil
}

// Release ends the claim. It does nothing after HandOver.
func (c *Claim) Release() {
	if c.ended.Swap(true) {
		return
	}
	if c.relay.handed.unclaim(c) {
		wake(c.lane.wake)
	}
	c.release()
	c.held.done()
}

// Disturbed tells whether this instance has committed a message of the key after the claim, so that Confirm would fail.
func (c *Claim) Disturbed() bool { return c.disturbed.Load() }

// Failed records that a commit has failed because of the claim. For a while the key is not claimed, and after several failures no key of its topic: the cause may concern all its
// keys.
func (c *Claim) Failed() { c.relay.handed.failed(c.Topic, c.Key) }

// HandOver ends the claim and delivers a message that was committed with it, before the messages of the key that wait. The context of the message says what the commit has confirmed.
func (c *Claim) HandOver(w *Message) {
	if w.ID == 0 {
		c.Release()
	}
	if c.ended.Swap(true) {
		return
	}
	row := outboxRow{ID: w.ID, Shard: c.shard, Topic: c.Topic, Key: c.Key}
	if c.relay.handed.handOver(c, w, row) {
		defer wake(c.lane.wake)
	}
	with := func(ctx context.Context) context.Context { return ctx }
	if c.held.valid() {
		with = func(ctx context.Context) context.Context { return cqrs.WithConfirmation(ctx, c.at, !c.handledYet) }
	}
	c.deliver(w.Message, with, func(acked bool) { c.relay.handed.finish(row, acked, func() { wake(c.lane.wake) }) })
	c.held.done()
}

// maxBehind is the number of messages of this process that may wait for the relay while keys are claimed, because Confirm reads all of them.
const maxBehind = 500

// behind tells whether many messages of this or of other instances wait for the relay.
func (r *Relay) behind() bool {
	return r.buffer.size() > maxBehind || slices.ContainsFunc(r.lanes, func(l *lane) bool { return l.backlog.Load() })
}
