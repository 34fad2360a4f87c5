// Messages that the relay hands to handlers of this process instead of the broker (ADR 35). TestMessageBehindASentOneIsNotOffered, TestHandlersGoOnWhileTheBrokerIsAway and, with three
// processes that are killed and paused, kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package outbox

import "github.com/ThreeDotsLabs/watermill/message"

// Local is a Sender that can also hand messages to handlers of this process.
type Local interface {
	Sender

	// Offer hands a message to this process's handlers, if it is the next message of its key that they would receive. More says that an earlier message of
	// its key was taken and is not done. If Offer returns false, the relay sends the message. Done is called once for a message that was taken: with true
	// after it was handled, with false if it will not be handled.
	Offer(topic string, msg *message.Message, more bool, done func(acked bool)) (taken bool)

	// Ready tells whether messages can be offered even if the broker is away.
	Ready() bool

	// Forget makes the sender forget which messages it has sent, because another sender may have sent some since then. It is called before the first Offer, and
	// after leases were taken.
	Forget()
}

// handOver offers the messages of rows to handlers of this process, and returns the rows whose messages must be sent. The error is errReread
// if some messages can neither be handed over nor sent now.
func (p *pipeline) handOver(held *lease, rows []outboxRow) (rest []outboxRow, err error) {
	local, ok := p.sender.(Local)
	switch {
	case !p.local || !ok:
		return rows, nil
	case !held.valid():
		return nil, errReread
	}
	if now := p.relay.handed.generation(); p.generation.Load() != now {
		local.Forget()
		p.generation.Store(now)
	}
	ready := true
	toBroker, waiting, count := map[keyed]bool{}, map[keyed]bool{}, map[int16]int{}
	for _, row := range rows {
		k := keyed{row.Topic, row.Key}
		if waiting[k] {
			count[row.Shard]++
			continue
		}
		if !toBroker[k] {
			taken, wait := p.relay.handed.offer(local, row, func() { wake(p.wake) })
			if taken {
				continue
			}
			if wait {
				waiting[k], err = true, errReread
				ready = ready && p.relay.handed.isClaimed(k) // which does not last
				count[row.Shard]++
				continue
			}
		}
		toBroker[k] = true
		rest = append(rest, row)
	}
	for _, row := range rest {
		count[row.Shard]++
	}
	if len(rest) > 0 && p.relay.brokerAway(held.ctx, p.lane) {
		p.relay.handed.sent(rest)
		rest, err, ready = nil, errReread, false
	}
	p.mu.Lock()
	p.waiting = count
	p.mu.Unlock()
	p.ready.Store(ready && local.Ready())
	return rest, err
}

// removeHandled deletes the rows whose messages were handled when the relay stops.
func (r *Relay) removeHandled() {
	held := r.leases.use()
	if held == nil {
		return
	}
	defer held.done()
	rows := r.handed.handled(held.shards)
	if _, err := r.removeSent(held, nil, idsOf(rows)); err != nil {
		r.log.Warn("relay: handled messages are left in the outbox; they are sent once more", "error", err, "messages", len(rows))
	}
}

func idsOf(rows []outboxRow) []int64 {
	ids := make([]int64, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	return ids
}
