// The rows whose messages were handed to handlers of this process (ADR 35, 38), and the keys that are claimed. The messages of a key keep their order whether they are handed over,
// given back or sent, and a row is deleted only after its message was handled. TestMessageGivenBackKeepsKeyOrder, TestClaimHandsOver and, with three processes that are killed and
// paused, kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package outbox

import (
	"slices"
	"sync"
	"time"
)

// handed are the rows whose messages handlers of this process have taken. They keep the order of a key:
//
//   - While a message of a key is taken and not done, the key's next message is offered too, or waits. It is not sent, because it
//     could overtake one that is given back.
//   - After a message was given back, no other message of its key is sent or offered until the rows have been read again.
//
// The rows stay in the table until their messages were handled. If this process dies, the next relay sends them, and the inbox refuses
// those that were handled.
type handed struct {
	mu             sync.Mutex
	rows           map[int64]outboxRow // rows that are taken, or handled and not deleted yet, without their messages
	ofKey          map[keyed][]int64   // their ids
	keys           map[keyed]int       // numbers of messages that are taken and not done, and of claims
	returned       map[keyed]bool      // keys with a message that was given back since the rows were last read
	sending        map[keyed]int       // batches that send messages of the key
	claims         map[keyed]*Claim
	avoided        map[keyed]time.Time // keys, and topics, that are not claimed until then
	failures       map[string]int      // commits that have failed for claims, by topic, since pruned
	pruned         time.Time           // when avoided was last cleared of what is over
	claimer        Claimer             // the sender of the local lane
	sentGeneration int64               // of what senders remember; a new one makes them forget it

	done map[int16][]outboxRow // handled, to be deleted, by shard
}

func newHanded() *handed {
	return &handed{
		rows: map[int64]outboxRow{}, ofKey: map[keyed][]int64{}, keys: map[keyed]int{}, returned: map[keyed]bool{}, sending: map[keyed]int{}, claims: map[keyed]*Claim{}, avoided: map[keyed]time.Time{}, failures: map[string]int{}, sentGeneration: 1, done: map[int16][]outboxRow{},
	}
}

// offer offers the message of a row to handlers. Taken: a handler has it. Wait: it must wait, because an earlier message of its key is not done. Neither: it must be
// sent to the broker, and its key counts as being sent.
func (h *handed) offer(to Local, row outboxRow, wakeLane func()) (taken, wait bool) {
	k := keyed{row.Topic, row.Key}
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		more := h.keys[k] > 0
		if h.returned[k] {
			return false, true
		}
		h.hold(row)
		h.keys[k]++
		h.unlocked(func() {
			taken = to.Offer(row.Topic, row.message, more, func(acked bool) { h.finish(row, acked, wakeLane) })
		})
		if taken {
			return true, false
		}
		h.drop(row.ID)
		h.release(k)
		if !more || h.keys[k] > 0 {
			if wait = h.keys[k] > 0 || h.returned[k]; !wait {
				h.sending[k]++
			} else if claim := h.claims[k]; claim != nil {
				claim.wanted = true
			}
			return false, wait
		} // else the earlier message has finished meanwhile, which may be why this one was refused
	}
}

// unlocked calls f without the lock.
func (h *handed) unlocked(f func()) {
	h.mu.Unlock()
	defer h.mu.Lock()
	f()
}

// deleteWithin is how soon handled rows are deleted, if no other reason wakes the lane before.
const deleteWithin = 20 * time.Millisecond

// finish takes the result of a message: handled, or given back.
func (h *handed) finish(row outboxRow, acked bool, wakeLane func()) {
	k := keyed{row.Topic, row.Key}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.release(k)
	if acked {
		h.done[row.Shard] = append(h.done[row.Shard], outboxRow{ID: row.ID, Shard: row.Shard})
		if len(h.done[row.Shard]) == 1 {
			time.AfterFunc(deleteWithin, wakeLane)
		}
		return
	}
	h.drop(row.ID)
	h.returned[k] = true
	wakeLane()
}

func (h *handed) hold(row outboxRow) {
	k := keyed{row.Topic, row.Key}
	h.rows[row.ID] = outboxRow{ID: row.ID, Shard: row.Shard, Topic: row.Topic, Key: row.Key}
	h.ofKey[k] = append(h.ofKey[k], row.ID)
}

func (h *handed) drop(id int64) {
	row, ok := h.rows[id]
	if !ok {
		return
	}
	k := keyed{row.Topic, row.Key}
	delete(h.rows, id)
	if h.ofKey[k] = slices.DeleteFunc(h.ofKey[k], func(other int64) bool { return other == id }); len(h.ofKey[k]) == 0 {
		delete(h.ofKey, k)
	}
}

func (h *handed) release(k keyed) {
	if h.keys[k]--; h.keys[k] == 0 {
		delete(h.keys, k)
	}
}

// begin is called before the rows are read from the lowest one on.
func (h *handed) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.returned)
}

// busy tells whether a message of a key is taken and not done, or was given back.
func (h *handed) busy(k keyed) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys[k] > 0 || h.returned[k]
}

// handled takes out the handled rows of some shards. Those of other shards are left to the relay that has them now.
func (h *handed) handled(shards []int16) (rows []outboxRow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, shard := range shards {
		rows = append(rows, h.done[shard]...)
		delete(h.done, shard)
	}
	return rows
}

// keep puts handled rows back.
func (h *handed) keep(rows []outboxRow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, row := range rows {
		h.done[row.Shard] = append(h.done[row.Shard], row)
	}
}

// forget forgets rows that were deleted, or that are another relay's now.
func (h *handed) forget(rows []outboxRow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, row := range rows {
		h.drop(row.ID)
	}
}

// count adds the number of rows by shard.
func (h *handed) count(to map[int16]int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, row := range h.rows {
		to[row.Shard]++
	}
}

// size is the number of rows that every read finds again.
func (h *handed) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.rows)
}

func (h *handed) has(id int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.rows[id]
	return ok
}

// forgetSent makes senders forget which messages they have sent.
func (h *handed) forgetSent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sentGeneration++
}

func (h *handed) generation() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sentGeneration
}
