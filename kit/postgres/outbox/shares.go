// The distribution of shards over relays (ADR 39). A relay holds the shards that it alone prefers, and an equal part of the others. If the relay is in the process that handles a shard's
// keys, commands reach their handlers without the broker. The distribution does not affect the order of messages; the leases keep it. TestSharesMeet and TestRelaysHaveWhatTheyPrefer show it.

package outbox

import (
	"maps"
	"slices"
)

// share is the change of a relay's shards.
type share struct{ give, take []int16 }

// shareOf returns the shards that a relay gives away and takes. It holds the shards that it alone prefers, and an equal part of those that no relay prefers, or several. Free are the
// shards that no relay holds, sole those that exactly one relay prefers. Hosts is the number of hosts that have a part; 0 if this relay must hold no shard.
func shareOf(held map[int16]bool, free, preferred, sole []int16, hosts int) (s share) {
	own := func(shard int16) bool { return slices.Contains(sole, shard) && slices.Contains(preferred, shard) }
	part := 0
	if hosts > 0 {
		part = (Shards - len(sole) + hosts - 1) / hosts
	}
	for _, shard := range slices.Sorted(maps.Keys(held)) {
		switch {
		case own(shard):
		case !slices.Contains(sole, shard) && part > 0:
			part--
		default:
			s.give = append(s.give, shard)
		}
	}
	for _, shard := range free {
		switch {
		case own(shard):
			s.take = append(s.take, shard)
		case !slices.Contains(sole, shard) && part > 0:
			part--
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

// give returns the shards that can be given away now. A shard in use is given away later, and no new batch of it begins.
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
