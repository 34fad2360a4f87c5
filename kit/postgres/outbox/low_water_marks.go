package outbox

import (
	"sync"
	"time"
)

// lowWaterMarks store for each shard the id up to which all rows were relayed, so that reading starts there. A deleted row stays in the index
// until it is vacuumed, and a long transaction anywhere on the server prevents vacuum. Without a low-water mark every read would walk over
// all deleted rows. A row can become visible below the mark if its transaction took the id long before it committed. So the whole shard is
// scanned from time to time, the less often the longer a scan takes.
type lowWaterMarks struct {
	mu         sync.Mutex
	generation int64
	shards     map[int16]*lowWaterMark
}

type lowWaterMark struct {
	current, next, high int64 // start of reading; start after the next advance; highest relayed id
	advancedAt          time.Time
	fullScanAt          time.Time // time of the next full scan
}

// lowWaterMarkLag is the time that a transaction may take from an id to its commit without waiting for a full scan. It is twice the time that
// a commit may wait for a lock (package txn), so that only a commit that the disk or the server stalls for longer can be overtaken by the
// next message of its key.
const lowWaterMarkLag = 10 * time.Second

func newLowWaterMarks() *lowWaterMarks { return &lowWaterMarks{shards: map[int16]*lowWaterMark{}} }

// positions returns the id at which reading starts in each shard, and the generation for which the ids are valid. Whole says that it is a
// full scan.
func (f *lowWaterMarks) positions(shards []int16) (ids []int64, generation int64, whole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids = make([]int64, len(shards))
	now := time.Now()
	for _, shard := range shards {
		if f.shards[shard] == nil {
			f.shards[shard] = &lowWaterMark{advancedAt: now}
		}
		whole = whole || !now.Before(f.shards[shard].fullScanAt)
	}
	if whole {
		return ids, f.generation, true
	}
	for i, shard := range shards {
		ids[i] = f.shards[shard].current
	}
	return ids, f.generation, false
}

// fullScanDone schedules the next full scan: after twenty times the duration of this one, and at least a second.
func (f *lowWaterMarks) fullScanDone(shards []int16, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, shard := range shards {
		if fl := f.shards[shard]; fl != nil {
			fl.fullScanAt = time.Now().Add(max(time.Second, 20*took))
		}
	}
}

// relayed records the relayed rows of a batch.
func (f *lowWaterMarks) relayed(rows []outboxRow, ids []int64) {
	done := make(map[int64]bool, len(ids))
	for _, id := range ids {
		done[id] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, row := range rows {
		fl := f.shards[row.Shard]
		if fl == nil || !done[row.ID] {
			continue
		}
		fl.high = max(fl.high, row.ID)
		if now.Sub(fl.advancedAt) > lowWaterMarkLag {
			fl.current, fl.next, fl.advancedAt = fl.next, fl.high, now
		}
	}
}

// startGeneration records the generation that was read. A new generation starts reading at the beginning of each shard: a dead letter was
// replayed or a topic resumed, and its rows have low ids.
func (f *lowWaterMarks) startGeneration(generation int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if generation > f.generation {
		f.generation = generation
		clear(f.shards)
	}
}

// reset starts reading at the beginning of each shard.
func (f *lowWaterMarks) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.shards)
}
