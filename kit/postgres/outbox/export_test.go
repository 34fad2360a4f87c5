package outbox

// AdvanceMarksOften has the relay advance its low-water marks after every row and before every read.
func (r *Relay) AdvanceMarksOften() {
	r.lowWaterMarks.mu.Lock()
	defer r.lowWaterMarks.mu.Unlock()
	r.lowWaterMarks.after, r.lowWaterMarks.every = 0, 0
}

// LowWaterMark is the mark of a shard.
func (r *Relay) LowWaterMark(shard int16) int64 {
	r.lowWaterMarks.mu.Lock()
	defer r.lowWaterMarks.mu.Unlock()
	if m := r.lowWaterMarks.shards[shard]; m != nil {
		return m.id
	}
	return 0
}
