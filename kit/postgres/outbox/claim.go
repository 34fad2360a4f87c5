// Claims: a command may be handled in the transaction that sends it if no earlier message of its key is on its way (ADR 38). In memory a claim keeps the key's
// messages from being sent or handled, and the transaction confirms that none waits in a table. TestClaimIsRefused, TestClaimConfirms and, with three processes
// that are killed and paused, kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package outbox

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Claimer is a Local that can keep the messages of a key from handlers.
type Claimer interface {
	Local

	// Claim keeps the messages of a key from this process's handlers until release is called, or until a message that deliver was given is done, which is handled
	// before them. One of the two is to be called. Deliver nil: another process may handle the key's messages, or some were sent that were not handled yet. It is
	// called by any goroutine.
	Claim(topic, key string) (release func(), deliver Deliver)
}

// Deliver delivers a message. With, if it is not nil, adds to the context of the first delivery. Done is called once: acked true if it was handled,
// false if it never will be.
type Deliver = func(msg *message.Message, with func(context.Context) context.Context, done func(acked bool))

// Claim is a key whose messages are neither sent nor handled until Release or HandOver. What was committed before the claim, and was not handled, is still in a table:
// Confirm fails the commit then.
type Claim struct {
	Topic, Key string

	relay      *Relay
	worker     *worker
	held       *lease
	shard      int16
	mark       int64
	generation int64
	handled    []int64 // rows of the key that were handled and are not deleted yet
	ended      atomic.Bool
	disturbed  atomic.Bool
	release    func()
	deliver    Deliver
	wanted     bool // a message of the key waits for the release
}

// Claim claims a key of a local topic. Nil: an earlier message of the key may be on its way, or another process may have its next one. The order that holds is
// that of commits: a message that is committed after the claim may be handled after what the claim is for.
//
// While the claim lasts, this relay keeps the lease of the key's shard if it can, sends no message of the key, and hands none to a handler that would
// begin with it. If it loses the lease all the same, Confirm fails.
func (r *Relay) Claim(topic, key string) *Claim {
	c := &Claim{Topic: topic, Key: key, relay: r, shard: ShardOf(topic, key)}
	for _, w := range r.workers {
		if w.local && w.mine(int(c.shard)) {
			c.worker = w
		}
	}
	if c.worker == nil || r.buffer.behind() {
		return nil
	}
	near := false
	if c.mark, c.generation, near = c.worker.marks.near(c.shard); !near {
		return nil
	}
	if c.held = r.leases.use(func(shard int) bool { return shard == int(c.shard) }); c.held == nil {
		return nil
	}
	if !r.handed.claim(c) {
		c.held.done()
		return nil
	}
	return c
}

// Release ends the claim, unless HandOver has.
func (c *Claim) Release() {
	if c.ended.Swap(true) {
		return
	}
	if c.relay.handed.unclaim(c) {
		wake(c.worker.wake)
	}
	c.release()
	c.held.done()
}

// Disturbed tells whether this instance has committed a message of the key since: Confirm would fail.
func (c *Claim) Disturbed() bool { return c.disturbed.Load() }

// HandOver ends the claim by the delivery of a message that was committed with it. With, if it is not nil, adds to the context of the first
// delivery.
func (c *Claim) HandOver(w *Message, with func(context.Context) context.Context) {
	if w.ID == 0 {
		c.Release()
	}
	if c.ended.Swap(true) {
		return
	}
	row := outboxRow{ID: w.ID, Shard: c.shard, Topic: c.Topic, Key: c.Key}
	if c.relay.handed.handOver(c, row) {
		defer wake(c.worker.wake)
	}
	c.deliver(w.Message, with, func(acked bool) { c.relay.handed.ended(row, acked, func() { wake(c.worker.wake) }) })
	c.held.done()
}

// maxBehind is how many messages of this process may wait for the relay while keys are claimed. With more, Confirm would read them each time.
const maxBehind = 500

// behind tells whether many messages wait for the relay.
func (r *buffer) behind() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.messages) > maxBehind
}

// claim claims a key, unless a message of it is taken, given back or being sent, or the sender may not know what was sent.
func (h *handed) claim(c *Claim) bool {
	k := keyed{c.Topic, c.Key}
	h.mu.Lock()
	defer h.mu.Unlock()
	claimer, generation := h.claimer, h.resent
	if claimer == nil || h.keys[k] > 0 || h.back[k] || h.sending[k] > 0 || c.worker.generation.Load() != generation {
		return false
	}
	h.keys[k]++
	h.claims[k] = c
	c.handled = slices.Clone(h.ofKey[k])
	h.mu.Unlock()
	c.release, c.deliver = claimer.Claim(c.Topic, c.Key)
	h.mu.Lock()
	switch {
	case c.deliver == nil:
	case h.resent == generation: // the sender did not forget what was sent meanwhile
		return true
	default:
		c.release()
	}
	delete(h.claims, k)
	h.less(k)
	if c.wanted {
		wake(c.worker.wake)
	}
	return false
}

// unclaim ends a claim, and tells whether a message of the key waits for that.
func (h *handed) unclaim(c *Claim) (wanted bool) {
	k := keyed{c.Topic, c.Key}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claims, k)
	h.less(k)
	return c.wanted
}

// handOver notes that the row of a claim's message is taken, and tells whether a message of the key waits for that.
func (h *handed) handOver(c *Claim, row outboxRow) (wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claims, keyed{c.Topic, c.Key})
	h.hold(row)
	return c.wanted
}

// others are the committed messages that were not handed over. They disturb the claims of their keys.
func (h *handed) others(written []*Message) []*Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(written), func(w *Message) bool {
		if claim := h.claims[keyed{w.Topic, w.Message.Metadata[cqrs.HeaderKey]}]; claim != nil && w.Message.Metadata[cqrs.HeaderDue] == "" {
			claim.disturbed.Store(true)
		}
		_, taken := h.rows[w.ID]
		return taken
	})
}

// unclaimed are the rows whose keys are not claimed. The others are read again when their claims have ended: one may be that of the message that a claim hands
// over. So it is no longer among them then.
func (h *handed) unclaimed(rows []outboxRow) []outboxRow {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(rows, func(row outboxRow) bool {
		if claim := h.claims[keyed{row.Topic, row.Key}]; claim != nil {
			claim.wanted = true
			return true
		}
		_, taken := h.rows[row.ID]
		return taken
	})
}

// claimBy sets who claims keys; nil: nobody does.
func (h *handed) claimBy(c Claimer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claimer = c
}

// sent notes that the messages of rows were sent, or will be sent anew.
func (h *handed) sent(rows []outboxRow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ended := map[keyed]bool{}
	for _, row := range rows {
		if k := (keyed{row.Topic, row.Key}); !ended[k] {
			ended[k] = true
			if h.sending[k]--; h.sending[k] <= 0 {
				delete(h.sending, k)
			}
		}
	}
}

// Confirm fails the commit of the unit of work of ctx, with cqrs.ErrConflict, if a message of the claimed key that was committed before may not have been handled: it
// waits in the outbox, behind a dead letter, for its topic, or for a retry at its consumer; or if another relay may have sent one.
func (c *Claim) Confirm(ctx context.Context, consumer string) error {
	return confirmations.Write(ctx, confirmation{c, consumer})
}

type confirmation struct {
	*Claim
	consumer string
}

var confirmations = &txn.Statement[confirmation]{
	Doing: "confirm that no earlier message of a key waits", Rank: 20,
	Query: func(rows []confirmation) (string, []any, error) {
		n := len(rows)
		shards, marks, generations := make([]int16, n), make([]int64, n), make([]int64, n)
		owners, topics, keys, consumers, handled := make([]string, n), make([]string, n), make([]string, n), make([]string, n), []int64{}
		for i, c := range rows {
			shards[i], marks[i], generations[i] = c.shard, c.mark, c.generation
			handled = append(handled, c.handled...)
			owners[i], topics[i], keys[i], consumers[i] = c.held.owner, c.Topic, c.Key, c.consumer
		}
		return `SELECT demand(
				c.generation = (SELECT epoch FROM outbox_epoch LIMIT 1)
				AND EXISTS (SELECT FROM relay_leases l WHERE l.shard = c.shard AND l.owner = c.owner)
				AND NOT EXISTS (SELECT FROM outbox o WHERE o.shard = c.shard AND o.due_at IS NULL AND o.id > c.mark AND o.topic = c.topic AND o.key = c.key
					AND o.id <> ALL($8::bigint[]))
				AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.outbox_id IS NOT NULL AND d.topic = c.topic AND d.key = c.key)
				AND NOT EXISTS (SELECT FROM suspended_topics t WHERE t.topic = c.topic)
				AND NOT EXISTS (SELECT FROM blocked_keys b WHERE b.consumer = c.consumer AND b.key = convert_to(c.key, 'UTF8')),
				'MR004', 'a message before waits: ' || c.topic || ' ' || c.key)
			FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[]) AS c(shard, mark, generation, owner, topic, key, consumer)`,
			[]any{shards, marks, generations, owners, topics, keys, consumers, handled}, nil
	},
}
