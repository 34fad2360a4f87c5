// The cache of streams. It has committed prefixes only. One unit holds a stream at a time, and units cannot wait for each other in a circle. Decisions that are based on the cache are
// confirmed by the database: see reads.go. TestContendedAggregatesQueueUp, TestALockAndAStreamInTheOtherOrder and TestCommittedUnitsAreFreed show it.

package eventstore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// maxKept is the maximum number of cached streams and events, unless LimitCache says less. Streams that a unit of work holds are kept in any
// case.
const maxKept = 150_000

// maxLength is how many events of one stream are kept, after its snapshot.
const maxLength = 10_000

// waitForSecond is how long a unit waits for a stream whose holder may wait for the unit: the unit holds a stream whose name comes later, or database locks.
// After this time a unit loads the stored events without holding the stream, and the versions in the database decide which unit was first.
const waitForSecond = 100 * time.Millisecond

// waitInOrder is the same for a unit with a transaction of its own that takes streams in the order of their names.
const waitInOrder = time.Second

// noPatience makes a unit give up at once if another unit holds the stream.
const noPatience time.Duration = -1

// contestedFor is how long a contended stream is locked before it is read, after a conflict with another instance.
const contestedFor = 10 * time.Second

// sharedFor is how long the streams of a category are read from the table before each use, after a conflict with another instance.
const sharedFor = 10 * time.Second

// prefix is the first events of a stream, as they were committed: a snapshot, or none, and the events after it. It never changes. Units of work
// that read the same prefix share it, and each folds it into an aggregate of its own.
type prefix struct {
	snapshot snapshot
	events   []cqrs.Event
}

func (p *prefix) version() int { return p.snapshot.Version + len(p.events) }

// with returns a longer prefix. The events are copied, so that two prefixes never append to the same array.
func (p *prefix) with(events []cqrs.Event) *prefix {
	if len(events) == 0 {
		return p
	}
	return &prefix{p.snapshot, slices.Concat(p.events, events)}
}

// cache keeps committed prefixes of streams in memory. A prefix may be out of date, because other instances write the same streams: a unit of
// work notes the version that it has read, and the database compares it when the unit commits, or before its error is final.
type cache struct {
	mu      sync.Mutex
	streams map[string]*stream
	idle    *list.List // of *stream, least recently used first
	events  int        // in all prefixes
	maxKept int
	shared  map[string]time.Time
}

// stream is the cache's entry for one stream. One unit at a time holds it, until it has committed, so that the units of one instance that change one
// stream do so one after the other.
type stream struct {
	name      string
	held      chan struct{} // has a token while a unit holds the stream
	users     int           // units that hold it or wait for it
	place     *list.Element // in idle
	contested time.Time     // the stream is locked before it is read until this time
	prefix    *prefix       // nil: the stream is not cached
}

func newCache() *cache {
	return &cache{streams: map[string]*stream{}, idle: list.New(), maxKept: maxKept, shared: map[string]time.Time{}}
}

// ErrBusy is wrapped by the error of a unit that has waited too long for a stream. The unit may run again.
var ErrBusy = errors.New("other units of work need the same stream")

// hold waits until the units before this one have released the stream. It returns nil after patience; zero means to wait without a limit, noPatience not to wait. The error is ctx's
// and wraps ErrBusy.
func (c *cache) hold(ctx context.Context, name string, patience time.Duration) (*stream, error) {
	c.mu.Lock()
	s := c.streams[name]
	if s == nil {
		s = &stream{name: name, held: make(chan struct{}, 1)}
		c.streams[name] = s
	}
	if s.place != nil {
		c.idle.Remove(s.place)
		s.place = nil
	}
	s.users++
	c.mu.Unlock()
	select {
	case s.held <- struct{}{}:
		return s, nil
	default:
	}
	if patience == noPatience {
		c.leave(s)
		return nil, nil
	}
	var enough <-chan time.Time
	if patience > 0 {
		enough = time.After(patience)
	}
	select {
	case s.held <- struct{}{}:
		return s, nil
	case <-enough:
		c.leave(s)
		return nil, nil
	case <-ctx.Done():
		c.leave(s)
		return nil, fmt.Errorf("wait for %s: %w: %w", name, ErrBusy, ctx.Err())
	}
}

// release lets the next unit hold the stream.
func (c *cache) release(s *stream) {
	<-s.held
	c.leave(s)
}

func (c *cache) leave(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	s.place = c.idle.PushBack(s)
	for c.idle.Len() > 0 && c.idle.Len()+c.events > c.maxKept {
		oldest := c.idle.Remove(c.idle.Front()).(*stream)
		oldest.place = nil
		c.set(oldest, nil)
		delete(c.streams, oldest.name)
	}
}

// get returns the cached prefix of a stream; nil if it is not cached.
func (c *cache) get(s *stream) *prefix {
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.prefix
}

// put replaces the cached prefix of a stream that the unit holds.
func (c *cache) put(s *stream, p *prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(s, p)
}

func (c *cache) set(s *stream, p *prefix) {
	if p != nil && len(p.events) > maxLength {
		p = nil
	}
	if s.prefix != nil {
		c.events -= len(s.prefix.events)
	}
	if p != nil {
		c.events += len(p.events)
	}
	s.prefix = p
}

// forget removes a stream from the cache.
func (c *cache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[name]; s != nil {
		c.set(s, nil)
	}
}

// foreign records that another instance writes streams of a category.
func (c *cache) foreign(category string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared[category] = time.Now().Add(sharedFor)
}

// contest records that another instance has written a contended stream.
func (c *cache) contest(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[name]; s != nil {
		s.contested = time.Now().Add(contestedFor)
	}
}

// isContested tells whether another instance has written a stream lately.
func (c *cache) isContested(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[name]
	return s != nil && time.Now().Before(s.contested)
}

// isShared tells whether another instance has written streams of a category lately.
func (c *cache) isShared(category string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.shared[category])
}
