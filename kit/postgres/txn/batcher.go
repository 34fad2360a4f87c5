// Calls in batches. A call that fails does not fail the others of its batch, and no call waits to make a batch larger. TestBatcherIsolatesABadElement and
// TestBatchedLookUpsIsolateABadElement show it.

package txn

import (
	"context"
	"sync"

	"github.com/millrace/millrace/kit/cqrs"
)

// Batcher combines concurrent calls into batches. A call that finds fewer than Parallel batches running starts at once. Calls that arrive
// meanwhile form the next batch. No call waits to make a batch larger.
type Batcher[Q, A any] struct {
	// Do executes a batch and returns the results in the order of the calls. If Do fails or panics, it is called again with each half of the
	// batch, and so on, until the bad call fails alone. All calls fail together only if the error is transient, because then no call is bad. So
	// Do must have no effect when it fails.
	Do func(calls []Q) ([]A, error)

	// Max is the maximum number of calls in a batch.
	Max int

	// Parallel is the maximum number of batches that run at the same time.
	Parallel int

	mu      sync.Mutex
	waiting []*group[Q, A] // all but the last one are full
	running int
}

// group is the calls of one batch.
type group[Q, A any] struct {
	calls   []Q
	answers []answer[A]
	done    chan struct{}
}

type answer[A any] struct {
	value A
	err   error
}

// Call executes q in a batch. If ctx ends first, the error is ctx's, and the batch still runs.
func (g *Batcher[Q, A]) Call(ctx context.Context, q Q) (A, error) { return g.Enqueue(q)(ctx) }

// Enqueue adds a call to a batch, and returns the function that waits for its result.
func (g *Batcher[Q, A]) Enqueue(q Q) (wait func(ctx context.Context) (A, error)) {
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
			return mine.answers[place].value, mine.answers[place].err
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

func (g *Batcher[Q, A]) run() {
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
		next.answers = make([]answer[A], len(next.calls))
		g.execute(next.calls, next.answers)
		close(next.done)
	}
}

func (g *Batcher[Q, A]) execute(calls []Q, answers []answer[A]) {
	var values []A
	err := cqrs.Protect(func() (err error) {
		values, err = g.Do(calls)
		return err
	})
	switch {
	case err == nil:
		for i := range answers {
			answers[i].value = values[i]
		}
	case len(calls) == 1 || IsUnavailable(err) || cqrs.Retryable(err):
		for i := range answers {
			answers[i].err = err
		}
	default:
		half := len(calls) / 2
		g.execute(calls[:half], answers[:half])
		g.execute(calls[half:], answers[half:])
	}
}
