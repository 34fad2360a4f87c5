package runner

import (
	"sync"
	"time"
)

// cached keeps a value for one second, so that many requests cause one computation. Requests that arrive during the computation wait for it.
type cached[T any] struct {
	mu   sync.Mutex
	made time.Time
	last T
}

// cacheFor is the maximum age of a value.
const cacheFor = time.Second

func (c *cached[T]) get(make func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made.IsZero() || time.Since(c.made) > cacheFor {
		c.last = make()
		c.made = time.Now() // the end of the computation, so that a slow computation is not repeated at once
	}
	return c.last
}
