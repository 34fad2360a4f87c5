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
	waiting []*call[Q, A]
	running int
}

type call[Q, A any] struct {
	q    Q
	a    A
	err  error
	done chan struct{}
}

// Call has q answered. The error may be ctx's: Do then goes on without anybody waiting.
func (g *Gather[Q, A]) Call(ctx context.Context, q Q) (A, error) { return g.Join(q)(ctx) }

// Join takes a place among the calls, and returns what waits for the answer.
func (g *Gather[Q, A]) Join(q Q) (wait func(ctx context.Context) (A, error)) {
	c := &call[Q, A]{q: q, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	lead := g.running < g.Parallel
	if lead {
		g.running++
	}
	g.mu.Unlock()
	if lead {
		go g.run()
	}
	return func(ctx context.Context) (A, error) {
		select {
		case <-c.done:
			return c.a, c.err
		case <-ctx.Done():
			return c.a, ctx.Err()
		}
	}
}

func (g *Gather[Q, A]) run() {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), g.Max)
		if n == 0 {
			g.running--
			g.mu.Unlock()
			return
		}
		calls := g.waiting[:n:n]
		g.waiting = g.waiting[n:]
		g.mu.Unlock()
		questions := make([]Q, n)
		for i, c := range calls {
			questions[i] = c.q
		}
		answers, err := g.Do(questions)
		for i, c := range calls {
			if c.err = err; err == nil {
				c.a = answers[i]
			}
			close(c.done)
		}
	}
}
