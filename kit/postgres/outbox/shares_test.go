package outbox

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Relays with any preferences, whose heartbeats come in any order, come to rest: every shard is held, by a relay that prefers it if there is one, and the
// others are in equal parts. Then no heartbeat changes anything.
func TestSharesMeet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type relay struct {
			held      map[int16]bool
			preferred []int16
		}
		relays := make([]relay, rapid.IntRange(1, 4).Draw(rt, "relays"))
		owner := map[int16]int{}
		all := rapid.SliceOfDistinct(rapid.Int16Range(FirstShard, FirstShard+Shards-1), rapid.ID)
		wanted := map[int16]bool{}
		for n := range relays {
			relays[n] = relay{map[int16]bool{}, all.Draw(rt, fmt.Sprint("preferred by ", n))}
			for _, shard := range relays[n].preferred {
				wanted[shard] = true
			}
		}
		for shard := int16(FirstShard); shard < FirstShard+Shards; shard++ {
			if n := rapid.IntRange(-1, len(relays)-1).Draw(rt, "first owner"); n >= 0 {
				owner[shard], relays[n].held[shard] = n, true
			}
		}
		free := func(shard int16) bool { _, held := owner[shard]; return !held }
		heartbeat := func(n int) (changed bool) {
			r := relays[n]
			var others []int16
			for other := range relays {
				if other != n {
					others = append(others, relays[other].preferred...)
				}
			}
			s := shareOf(r.held, r.preferred, others, len(relays))
			for _, shard := range s.give {
				delete(owner, shard)
				delete(r.held, shard)
				changed = true
			}
			for _, shard := range append(slices.Clone(s.take), s.rest...) {
				prefers := slices.Contains(s.take, shard)
				if free(shard) && (prefers || s.more > 0) {
					owner[shard], r.held[shard], changed = n, true, true
					if !prefers {
						s.more--
					}
				}
			}
			return changed
		}
		for range 20 {
			heartbeat(rapid.IntRange(0, len(relays)-1).Draw(rt, "heartbeat"))
		}
		rounds := 0
		for changed := true; changed; rounds++ {
			changed = false
			for n := range relays {
				changed = heartbeat(n) || changed
			}
			if rounds > 5 {
				rt.Fatalf("no rest after %d rounds", rounds)
			}
		}
		part := (Shards - len(wanted) + len(relays) - 1) / len(relays)
		of := make([]int, len(relays))
		for shard := int16(FirstShard); shard < FirstShard+Shards; shard++ {
			n, held := owner[shard]
			switch prefers := held && slices.Contains(relays[n].preferred, shard); {
			case !held:
				rt.Fatalf("nobody holds %d", shard)
			case wanted[shard] && !prefers:
				rt.Fatalf("%d is held by %d, which does not prefer it", shard, n)
			case !wanted[shard]:
				of[n]++
			}
		}
		if slices.Max(of) > part {
			rt.Fatalf("parts %v of what nobody prefers, at most %d", of, part)
		}
	})
}

// A relay that stands by gives all its shards away and takes none.
func TestStandbyHasNoShare(t *testing.T) {
	s := shareOf(map[int16]bool{FirstShard: true, FirstShard + 3: true}, nil, nil, 0)
	if !slices.Equal(s.give, []int16{FirstShard, FirstShard + 3}) || len(s.take)+s.more > 0 {
		t.Fatalf("%+v", s)
	}
}
