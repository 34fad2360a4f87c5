package outbox

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Relays with any preferences, whose heartbeats come in any order, come to rest: every shard is held, by the relay that alone prefers it if there is one, and
// the others are in equal parts. Then no heartbeat changes anything.
func TestSharesMeet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type relay struct {
			held      map[int16]bool
			preferred []int16
		}
		relays := make([]relay, rapid.IntRange(1, 4).Draw(rt, "relays"))
		owner := map[int16]int{}
		all := rapid.SliceOfDistinct(rapid.Int16Range(FirstShard, FirstShard+Shards-1), rapid.ID)
		wanted := map[int16]int{}
		for n := range relays {
			relays[n] = relay{map[int16]bool{}, all.Draw(rt, fmt.Sprint("preferred by ", n))}
			for _, shard := range relays[n].preferred {
				wanted[shard]++
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
			var unheld, sole []int16
			for shard := int16(FirstShard); shard < FirstShard+Shards; shard++ {
				if wanted[shard] == 1 {
					sole = append(sole, shard)
				}
				if free(shard) {
					unheld = append(unheld, shard)
				}
			}
			s := shareOf(r.held, unheld, r.preferred, sole, len(relays))
			for _, shard := range s.give {
				delete(owner, shard)
				delete(r.held, shard)
				changed = true
			}
			for _, shard := range s.take {
				owner[shard], r.held[shard], changed = n, true, true
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
		rest := Shards
		for _, by := range wanted {
			if by == 1 {
				rest--
			}
		}
		part := (rest + len(relays) - 1) / len(relays)
		of := make([]int, len(relays))
		for shard := int16(FirstShard); shard < FirstShard+Shards; shard++ {
			n, held := owner[shard]
			switch prefers := held && slices.Contains(relays[n].preferred, shard); {
			case !held:
				rt.Fatalf("nobody holds %d", shard)
			case wanted[shard] == 1 && !prefers:
				rt.Fatalf("%d is held by %d, which does not prefer it", shard, n)
			case wanted[shard] != 1:
				of[n]++
			}
		}
		if slices.Max(of) > part {
			rt.Fatalf("parts %v of what nobody or several prefer, at most %d", of, part)
		}
	})
}

// A relay that stands by gives all its shards away and takes none.
func TestStandbyHasNoShare(t *testing.T) {
	s := shareOf(map[int16]bool{FirstShard: true, FirstShard + 3: true}, []int16{FirstShard + 1}, nil, nil, 0)
	if !slices.Equal(s.give, []int16{FirstShard, FirstShard + 3}) || len(s.take) > 0 {
		t.Fatalf("%+v", s)
	}
}

// Beside relays of the version before, which take an equal part of whatever is free and give none of the new shards away, nobody prefers anything: no shard is left.
func TestSharesBesideTheVersionBefore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		relays := rapid.IntRange(2, 5).Draw(rt, "relays")
		former := rapid.IntRange(1, relays).Draw(rt, "of the version before")
		owner := map[int16]int{}
		heartbeat := func(n int) {
			held, free := map[int16]bool{}, []int16{}
			for shard := int16(FirstShard); shard < FirstShard+Shards; shard++ {
				by, taken := owner[shard]
				held[shard] = taken && by == n
				if !taken {
					free = append(free, shard)
				}
				if !held[shard] {
					delete(held, shard)
				}
			}
			s := shareOf(held, free, nil, nil, relays)
			if n < former {
				missing := max(0, (Shards+relays-1)/relays-len(held))
				s = share{take: free[:min(missing, len(free))]}
			}
			for _, shard := range s.give {
				delete(owner, shard)
			}
			for _, shard := range s.take {
				owner[shard] = n
			}
		}
		for range 20 {
			heartbeat(rapid.IntRange(0, relays-1).Draw(rt, "heartbeat"))
		}
		for range 3 {
			for n := range relays {
				heartbeat(n)
			}
		}
		if len(owner) != Shards {
			rt.Fatalf("%d of %d shards are held", len(owner), Shards)
		}
	})
}
