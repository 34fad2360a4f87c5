// Which shards a relay has: those that it prefers, and its part of those that nobody prefers. Where the relay is in the process that handles a shard's keys, commands
// reach their handlers without the broker (ADR 39). It decides nothing about order, which is for the leases. TestSharesMeet and TestRelaysHaveWhatTheyPrefer show it.

package outbox

import (
	"maps"
	"slices"
)

// share is what a relay is to change.
type share struct {
	give []int16 // those to give away
	take []int16 // those that it prefers and does not hold
	rest []int16 // those that nobody prefers
	more int     // how many of rest to take
}

// shareOf says what a relay is to change. Others are the shards that other relays prefer. Hosts is the number of hosts that have a part; 0: this relay has none. A
// shard that two relays prefer stays with the one that holds it.
func shareOf(held map[int16]bool, preferred, others []int16, hosts int) (s share) {
	part := 0
	for shard := int16(FirstShard); shard < FirstShard+Shards; shard++ {
		if !slices.Contains(preferred, shard) && !slices.Contains(others, shard) {
			s.rest = append(s.rest, shard)
		}
	}
	if hosts > 0 {
		part = (len(s.rest) + hosts - 1) / hosts
	}
	s.more = part
	for _, shard := range slices.Sorted(maps.Keys(held)) {
		switch {
		case slices.Contains(preferred, shard):
		case slices.Contains(s.rest, shard) && s.more > 0:
			s.more--
		default:
			s.give = append(s.give, shard)
		}
	}
	for _, shard := range preferred {
		if !held[shard] {
			s.take = append(s.take, shard)
		}
	}
	return s
}

func (l *leases) heldBy(s *session) map[int16]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(s.shards)
}

// give says which shards to give away now. One that is in use is given away later, and no new batch of it begins.
func (l *leases) give(s *session, shards []int16) (now []int16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.giving)
	for _, shard := range shards {
		if s.shards[shard] {
			l.giving[shard] = true
			if l.inUse[shard] == 0 {
				now = append(now, shard)
			}
		}
	}
	return now
}
