package txn

import (
	"container/list"
	"context"
	"sync"
)

// maxPrefetched is how many answers are kept for those who will ask.
const maxPrefetched = 4096

// Prefetch has answers under way before they are asked for, so that who comes after others in a row need not begin to wait only then. An
// answer that nobody comes for is forgotten in time.
type Prefetch[K comparable, A any] struct {
	mu    sync.Mutex
	byKey map[K]*list.Element
	order list.List // of *coming[K, A], the oldest first
}

type prefetched[K comparable, A any] struct {
	key  K
	wait func(ctx context.Context) (A, error)
}

// Add keeps what waits for an answer.
func (a *Prefetch[K, A]) Add(key K, wait func(ctx context.Context) (A, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byKey == nil {
		a.byKey = map[K]*list.Element{}
	}
	if old, ok := a.byKey[key]; ok {
		a.order.Remove(old)
	}
	a.byKey[key] = a.order.PushBack(&prefetched[K, A]{key, wait})
	if a.order.Len() > maxPrefetched {
		oldest := a.order.Remove(a.order.Front()).(*prefetched[K, A])
		delete(a.byKey, oldest.key)
	}
}

// Take returns what waits for an answer, once; nil if nobody has expected it.
func (a *Prefetch[K, A]) Take(key K) (wait func(ctx context.Context) (A, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.byKey[key]
	if !ok {
		return nil
	}
	delete(a.byKey, key)
	return a.order.Remove(e).(*prefetched[K, A]).wait
}
