package outbox

import (
	"sync"
	"time"
)

// floors remember for each shard up to which row everything was relayed a while ago, so that reading begins there. A deleted row
// stays in the index until it is vacuumed, which a long transaction anywhere on the server prevents; beginning at the lowest row
// would read all of them each time. A row can come into sight below the floor, if its transaction took its number long before it
// committed; so now and then everything is looked at, the more rarely the longer that takes.
type floors struct {
	mu     sync.Mutex
	epoch  int64
	shards map[int16]*floor
}

type floor struct {
	id, next, high int64 // where to begin; where after the next turn; the highest that was relayed
	turned         time.Time
	lookAgain      time.Time // when to look at everything
}

// floorLag is how long a row's transaction may take to commit and still be found at once, at least. It is twice the time for which a commit may
// wait for a lock (txn), so that only a commit that the disk or the server stalls for longer can be overtaken by the next message of its key.
const floorLag = 10 * time.Second

func newFloors() *floors { return &floors{shards: map[int16]*floor{}} }

// of returns where to begin in each shard, and in which epoch that is right; whole says that it is at the beginning.
func (f *floors) of(shards []int16) (ids []int64, epoch int64, whole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids = make([]int64, len(shards))
	now := time.Now()
	for _, shard := range shards {
		if f.shards[shard] == nil {
			f.shards[shard] = &floor{turned: now}
		}
		whole = whole || !now.Before(f.shards[shard].lookAgain)
	}
	if whole {
		return ids, f.epoch, true
	}
	for i, shard := range shards {
		ids[i] = f.shards[shard].id
	}
	return ids, f.epoch, false
}

// looked notes how long it took to look at everything: it is done again when twenty times as long has passed, and a second.
func (f *floors) looked(shards []int16, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, shard := range shards {
		if fl := f.shards[shard]; fl != nil {
			fl.lookAgain = time.Now().Add(max(time.Second, 20*took))
		}
	}
}

// relayed notes which rows of a batch are done.
func (f *floors) relayed(rows []outboxRow, ids []int64) {
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
		if now.Sub(fl.turned) > floorLag {
			fl.id, fl.next, fl.turned = fl.next, fl.high, now
		}
	}
}

// begin notes an epoch that was read. In a new one, everything begins at the beginning again.
func (f *floors) begin(epoch int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch > f.epoch {
		f.epoch = epoch
		clear(f.shards)
	}
}

func (f *floors) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.shards)
}
