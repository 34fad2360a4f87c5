package txn

import (
	"container/list"
	"context"
	"sync"
)

// maxPrefetched is the maximum number of results that are kept for their callers.
const maxPrefetched = 4096

// Prefetch holds results of look-ups that were started before their callers need them. A message that waits for an earlier message of its key
// uses it: its inbox row and the state of its key are looked up meanwhile. A result that no caller takes is dropped when maxPrefetched newer
// ones were added.
type Prefetch[K comparable, A any] struct {
	mu    sync.Mutex
	byKey map[K]*list.Element
	order list.List // of *coming[K, A], the oldest first
}

type prefetched[K comparable, A any] struct {
	key  K
	wait func(ctx context.Context) (A, error)
}

// Add keeps a look-up that was started. Wait returns its result.
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

// Take removes a look-up and returns the function that waits for its result; nil if none was added for the key.
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
