package outbox

import (
	"sync"
	"time"
)

// lowWaterMarks remember for each shard up to which row everything was relayed a while ago, so that reading begins there. A deleted row
// stays in the index until it is vacuumed, which a long transaction anywhere on the server prevents; beginning at the lowest row
// would read all of them each time. A row can come into sight below the floor, if its transaction took its number long before it
// committed; so now and then everything is looked at, the more rarely the longer that takes.
type lowWaterMarks struct {
	mu         sync.Mutex
	generation int64
	shards     map[int16]*lowWaterMark
}

type lowWaterMark struct {
	current, next, high int64 // where to begin; where after the next turn; the highest that was relayed
	advancedAt          time.Time
	fullScanAt          time.Time // when to look at everything
}

// lowWaterMarkLag is how long a row's transaction may take to commit and still be found at once, at least. It is twice the time for which a commit may
// wait for a lock (txn), so that only a commit that the disk or the server stalls for longer can be overtaken by the next message of its key.
const lowWaterMarkLag = 10 * time.Second

func newLowWaterMarks() *lowWaterMarks { return &lowWaterMarks{shards: map[int16]*lowWaterMark{}} }

// positions returns where to begin in each shard, and in which epoch that is right; whole says that it is at the beginning.
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

// fullScanDone notes how long it took to look at everything: it is done again when twenty times as long has passed, and a second.
func (f *lowWaterMarks) fullScanDone(shards []int16, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, shard := range shards {
		if fl := f.shards[shard]; fl != nil {
			fl.fullScanAt = time.Now().Add(max(time.Second, 20*took))
		}
	}
}

// relayed notes which rows of a batch are done.
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

// startGeneration notes an epoch that was read. In a new one, everything begins at the beginning again.
func (f *lowWaterMarks) startGeneration(generation int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if generation > f.generation {
		f.generation = generation
		clear(f.shards)
	}
}

func (f *lowWaterMarks) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.shards)
}
