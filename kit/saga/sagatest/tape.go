package sagatest

import "math/rand/v2"

// tape holds the choices of a run, which are made at random or read from a list. 0 always means no fault, so a shorter list, or one with more
// zeros, is a run with fewer faults.
type tape struct {
	chance *rand.Rand // nil: the choices are read from play
	rate   float64    // of faults
	play   []int
	made   []int
	ways   []int // number of alternatives of each choice
	tell   bool
}

func (t *tape) choose(n int, make func() int) int {
	v := 0
	switch at := len(t.made); {
	case n < 2:
		return 0
	case t.chance != nil:
		v = make()
	case at < len(t.play):
		v = t.play[at] % n
	}
	t.made, t.ways = append(t.made, v), append(t.ways, n)
	return v
}

// pick returns a number below n, all with equal probability.
func (t *tape) pick(n int) int { return t.choose(n, func() int { return t.chance.IntN(n) }) }

// fault returns 0 for no fault, or with probability rate the number of a fault, from 1 to n-1.
func (t *tape) fault(n int) int {
	return t.choose(n, func() int {
		if t.chance.Float64() >= t.rate {
			return 0
		}
		return 1 + t.chance.IntN(n-1)
	})
}

// shrink returns a shorter list of choices, or one with more zeros, that still fails.
func shrink(choices []int, fails func([]int) bool) []int {
	best := choices
	tries := 0
	try := func(candidate []int) bool {
		if tries++; tries > 3000 || !fails(candidate) {
			return false
		}
		best = candidate
		return true
	}
	for size := len(best); size > 0; size /= 2 {
		for at := 0; at < len(best); at += size {
			end := min(at+size, len(best))
			try(append(best[:at:at], best[end:]...))
			if end = min(at+size, len(best)); at >= end {
				break
			}
			calm := append([]int(nil), best...)
			clear(calm[at:end])
			if !equal(calm, best) {
				try(calm)
			}
		}
	}
	for len(best) > 0 && best[len(best)-1] == 0 {
		best = best[:len(best)-1]
	}
	return best
}

func equal(a, b []int) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}
