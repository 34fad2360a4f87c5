// Low-water marks, above which reading begins. No row at or below a mark is due, now or later. TestRelayKeepsKeyOrderWhenCommitsStall, TestRelayKeepsKeyOrderAfterASlowCommit and
// TestBlockedKeyContinuesAfterReplay show it; `go run ./tests/bench -passed` shows what it is for.

package outbox

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// lowWaterMarks holds for each shard an id at or below which no row of the outbox is due, now or later, so that reading begins above it. A
// deleted row stays in the index until it is vacuumed, which a long transaction anywhere on the server prevents; without a mark each read
// would pass all of them.
//
// A row becomes visible when its transaction commits, in whatever order. So a mark advances in three steps:
//
//  1. The highest id that was seen becomes the candidate of each shard; then the transactions that write to the outbox are listed. An INSERT locks
//     the table before it takes an id, so a transaction that has taken an id up to a candidate is on the list, or has ended.
//  2. All transactions of the list have ended. What they committed is visible to statements that begin from now on.
//  3. A read that began later finds no row from the mark to the candidate. The candidate becomes the mark.
//
// Rows at or below a mark become due again when a blocked key is released. That changes the outbox's generation (outbox_epoch) in the same
// transaction, and with a new generation all marks are void.
type lowWaterMarks struct {
	mu         sync.Mutex
	generation int64
	seen       int64 // the highest id that was seen
	shards     map[int16]*lowWaterMark
	writers    map[string]bool // step 1: the transactions that must end; nil: none are listed
	checked    time.Time

	after int64         // advanceAfter
	every time.Duration // advanceEvery
}

type lowWaterMark struct {
	id        int64
	candidate int64 // 0: none
	ready     bool  // step 2 is done
}

const (
	// advanceAfter is by how many ids a mark lags behind before it is worth two queries to advance it: 16 shards share the ids, and a read of
	// a shard passes a thousand deleted rows in less than a millisecond.
	advanceAfter = 16_000

	// advanceEvery is how often, at most, transactions are listed.
	advanceEvery = 200 * time.Millisecond
)

func newLowWaterMarks() *lowWaterMarks {
	return &lowWaterMarks{shards: map[int16]*lowWaterMark{}, after: advanceAfter, every: advanceEvery}
}

// of returns the marks of shards, the generation in which they hold, and the candidates that the read that begins now may confirm.
func (l *lowWaterMarks) of(shards []int16) (ids []int64, generation int64, candidates []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids, candidates = make([]int64, len(shards)), make([]int64, len(shards))
	for i, shard := range shards {
		m := l.shards[shard]
		if m == nil {
			m = &lowWaterMark{}
			l.shards[shard] = m
		}
		ids[i] = m.id
		if m.ready {
			candidates[i] = m.candidate
		}
	}
	return ids, l.generation, candidates
}

// near returns the mark of a shard. Ok is false if the mark lags far behind, so that reading above it takes long.
func (l *lowWaterMarks) near(shard int16) (id, generation int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.shards[shard]; m != nil {
		id = m.id
	}
	return id, l.generation, l.seen <= id+advanceAfter*3/2
}

// confirm is step 3: lowest are the lowest ids of due rows that the read found above the marks, by shard.
func (l *lowWaterMarks) confirm(shards []int16, generation int64, candidates []int64, lowest map[int16]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if generation != l.generation {
		return
	}
	for i, shard := range shards {
		m, found := l.shards[shard], lowest[shard]
		if m == nil || candidates[i] == 0 || candidates[i] != m.candidate || found != 0 && found <= candidates[i] {
			continue
		}
		m.id, m.candidate, m.ready = candidates[i], 0, false
	}
}

// note notes an id that was seen.
func (l *lowWaterMarks) note(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = max(l.seen, id)
}

// advance does steps 1 and 2. It returns at once if no mark can gain from it. Only one goroutine calls it.
func (l *lowWaterMarks) advance(ctx context.Context, db *sqlx.DB) error {
	if !l.begin() {
		return nil
	}
	var writers []string
	err := db.SelectContext(ctx, &writers, `SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relation = 'outbox'::regclass`)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checked = time.Now()
	switch {
	case err != nil:
		return txn.Classify(err, "list the transactions that write to the outbox")
	case l.writers == nil:
		l.writers = map[string]bool{}
		for _, w := range writers {
			l.writers[w] = true
		}
	}
	maps.DeleteFunc(l.writers, func(w string, _ bool) bool { return !slices.Contains(writers, w) })
	for _, w := range writers {
		if strings.HasPrefix(w, "-1/") { // prepared, which changes a transaction's number: it may be one of the list
			l.writers[w] = true
		}
	}
	if len(l.writers) > 0 {
		return nil
	}
	l.writers = nil
	for _, m := range l.shards {
		m.ready = m.candidate > 0
	}
	return nil
}

// begin tells whether transactions are to be listed now. If none are listed yet, it chooses the candidates.
func (l *lowWaterMarks) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.checked) < l.every {
		return false
	}
	if l.writers == nil {
		chosen := false
		for _, m := range l.shards {
			if m.candidate == 0 && l.seen > m.id+l.after {
				m.candidate, chosen = l.seen, true
			}
		}
		return chosen
	}
	return true
}

// renew takes the generation that was read. If it is new, all marks are void.
func (l *lowWaterMarks) renew(generation int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if generation != l.generation {
		l.generation = generation
		l.clear()
	}
}

func (l *lowWaterMarks) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
}

func (l *lowWaterMarks) clear() {
	clear(l.shards)
	l.writers, l.seen = nil, 0 // the ids begin anew lower after a failover to an earlier state
}
