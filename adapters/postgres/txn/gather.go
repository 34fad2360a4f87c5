package txn

import (
	"context"
	"sync"
)

// Gather has calls that come while others are under way share the next one. A call that finds nobody under way begins at once:
// nothing is ever waited for to make a group larger.
type Gather[Q, A any] struct {
	// Do answers some calls at once, in their order. An error is for all of them.
	Do func(calls []Q) ([]A, error)

	// Max is how many calls one Do gets at most.
	Max int

	// Parallel is how many Do may be under way at the same time.
	Parallel int

	mu      sync.Mutex
	waiting []*group[Q, A] // all but the last one are full
	running int
}

// group is what one Do gets.
type group[Q, A any] struct {
	calls   []Q
	answers []A
	err     error
	done    chan struct{}
}

// Call has q answered. The error may be ctx's: Do then goes on without anybody waiting.
func (g *Gather[Q, A]) Call(ctx context.Context, q Q) (A, error) { return g.Join(q)(ctx) }

// Join takes a place among the calls, and returns what waits for the answer.
func (g *Gather[Q, A]) Join(q Q) (wait func(ctx context.Context) (A, error)) {
	g.mu.Lock()
	last := len(g.waiting) - 1
	if last < 0 || len(g.waiting[last].calls) == g.Max {
		g.waiting = append(g.waiting, &group[Q, A]{done: make(chan struct{})})
		last++
	}
	mine := g.waiting[last]
	place := len(mine.calls)
	mine.calls = append(mine.calls, q)
	lead := g.running < g.Parallel
	if lead {
		g.running++
	}
	g.mu.Unlock()
	if lead {
		go g.run()
	}
	return func(ctx context.Context) (a A, err error) {
		select {
		case <-mine.done:
			if mine.err == nil {
				a = mine.answers[place]
			}
			return a, mine.err
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

func (g *Gather[Q, A]) run() {
	for {
		g.mu.Lock()
		if len(g.waiting) == 0 {
			g.running--
			g.mu.Unlock()
			return
		}
		next := g.waiting[0]
		g.waiting[0] = nil
		g.waiting = g.waiting[1:]
		g.mu.Unlock()
		next.answers, next.err = g.Do(next.calls)
		close(next.done)
	}
}
