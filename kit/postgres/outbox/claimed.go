// The keys that are claimed, and keys that are not claimed for a while because claims of them fail. Messages of a claimed key are neither sent nor offered. TestClaimIsRefused, TestRowsOfAClaimedKeyWait and
// TestKeyIsAvoidedAfterAFailure show it.

package outbox

import (
	"maps"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// avoidFor is how long a key is not claimed after a claim of it was refused or has failed a commit. That is likely to happen again, and costs each time.
const avoidFor = time.Second

// maxFailures is the number of commits within avoidFor that may fail for claims of a topic. After that none of its keys is claimed for a while: the cause may concern all of them.
const maxFailures = 3

// avoid notes a key that is not to be claimed for a while.
func (h *handed) avoid(topic, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.avoidLocked(keyed{topic, key})
}

func (h *handed) avoidLocked(k keyed) {
	now := time.Now()
	if now.Sub(h.pruned) > avoidFor {
		h.pruned = now
		maps.DeleteFunc(h.avoided, func(_ keyed, until time.Time) bool { return now.After(until) })
		clear(h.failures)
	}
	if len(h.avoided) < maxAvoided {
		h.avoided[k] = now.Add(avoidFor)
	}
}

// maxAvoided bounds what is remembered. It is more than can be refused or fail within avoidFor.
const maxAvoided = 50_000

// failed notes a key for which a commit has failed.
func (h *handed) failed(topic, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.avoidLocked(keyed{topic, key})
	if h.failures[topic]++; h.failures[topic] >= maxFailures {
		h.avoidLocked(keyed{topic: topic})
	}
}

// avoids tells whether a key is not to be claimed now.
func (h *handed) avoids(k keyed) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	return now.Before(h.avoided[k]) || now.Before(h.avoided[keyed{topic: k.topic}])
}

// claim claims a key, unless a message of it is taken, given back or being sent, or the sender may not know what was sent.
func (h *handed) claim(c *Claim) bool {
	k := keyed{c.Topic, c.Key}
	h.mu.Lock()
	defer h.mu.Unlock()
	claimer, generation := h.claimer, h.sentGeneration
	if claimer == nil || h.keys[k] > 0 || h.returned[k] || h.sending[k] > 0 || c.lane.generation.Load() != generation {
		return false
	}
	h.keys[k]++
	h.claims[k] = c
	c.handled = slices.Clone(h.ofKey[k])
	h.unlocked(func() { c.release, c.deliver = claimer.Claim(c.Topic, c.Key) })
	switch {
	case c.deliver == nil:
	case h.sentGeneration == generation: // the sender did not forget what was sent meanwhile
		return true
	default:
		c.release()
	}
	delete(h.claims, k)
	h.release(k)
	if c.wanted {
		wake(c.lane.wake)
	}
	return false
}

// unclaim ends a claim, and tells whether a message of the key waits for that.
func (h *handed) unclaim(c *Claim) (wanted bool) {
	k := keyed{c.Topic, c.Key}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claims, k)
	h.release(k)
	return c.wanted
}

// handOver notes that the row of a claim's message is taken, and tells whether a message of the key waits for that.
func (h *handed) handOver(c *Claim, w *Message, row outboxRow) (wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.handed = true
	delete(h.claims, keyed{c.Topic, c.Key})
	h.hold(row)
	return c.wanted
}

// notHandedOver returns the committed messages that were not handed over. They disturb the claims of their keys.
func (h *handed) notHandedOver(written []*Message) []*Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(written), func(w *Message) bool {
		if claim := h.claims[keyed{w.Topic, w.Message.Metadata[cqrs.HeaderKey]}]; claim != nil && w.Message.Metadata[cqrs.HeaderDue] == "" {
			claim.disturbed.Store(true)
			h.avoidLocked(keyed{claim.Topic, claim.Key})
		}
		_, taken := h.rows[w.ID]
		return taken || w.handed // then its row may be gone already
	})
}

// unclaimed returns the rows whose keys are not claimed, and the number of the other rows by shard. Those are read again when the claims have ended: one of them may be the row of
// the message that a claim hands over.
func (h *handed) unclaimed(rows []outboxRow) (free []outboxRow, left map[int16]int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left = map[int16]int{}
	free = slices.DeleteFunc(rows, func(row outboxRow) bool {
		if claim := h.claims[keyed{row.Topic, row.Key}]; claim != nil {
			claim.wanted = true
			left[row.Shard]++
			return true
		}
		_, taken := h.rows[row.ID]
		return taken
	})
	return free, left
}

func (h *handed) isClaimed(k keyed) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claims[k] != nil
}

// setClaimer sets the sender that can claim keys; nil: no key can be claimed.
func (h *handed) setClaimer(c Claimer) {
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
