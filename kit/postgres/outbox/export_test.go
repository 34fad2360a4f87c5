package outbox

import (
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// AdvanceMarksOften has the relay advance its low-water marks after every row and before every read.
func (r *Relay) AdvanceMarksOften() {
	for _, l := range r.lanes {
		l.marks.mu.Lock()
		l.marks.after, l.marks.every = 0, 0
		l.marks.mu.Unlock()
	}
}

// LowWaterMark is the mark of a shard.
func (r *Relay) LowWaterMark(shard int16) int64 {
	marks := r.lanes[0].marks
	marks.mu.Lock()
	defer marks.mu.Unlock()
	if m := marks.shards[shard]; m != nil {
		return m.id
	}
	return 0
}

// See makes the relay see an id of a row.
func (r *Relay) See(id int64) {
	for _, l := range r.lanes {
		l.marks.note(id)
	}
}

// Buffered is how many messages are in memory.
func (r *Relay) Buffered() int { return r.buffer.size() }

// Buffer buffers a message since some time from now.
func (r *Relay) Buffer(key string, since time.Duration) {
	msg := message.NewMessage(key, nil)
	msg.Metadata[cqrs.HeaderKey] = key
	r.buffer.mu.Lock()
	defer r.buffer.mu.Unlock()
	r.buffer.messages[-1] = &Message{ID: -1, Topic: "events", Message: msg}
	r.buffer.order = append(r.buffer.order, buffered{-1, time.Now().Add(since)})
}

// Holds tells whether the relay holds a shard.
func (r *Relay) Holds(shard int16) bool { return r.leases.holds()[shard] }

// ConfirmQuery is the statement that confirms claims.
func ConfirmQuery() string {
	query, _, _ := confirmations.Query(nil)
	return query
}

// Down tells whether the last request failed by a fault of the broker.
func (r *Relay) Down() bool { return r.down() }
