package eventstore

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// maxCached is how many streams are kept that nobody uses at the moment, unless LimitCache says less.
const maxCached = 20_000

// maxHistory is from how many events on a history is not kept.
const maxHistory = 256

// waitForSecond is how long a unit that has one stream waits for another one. Two units could wait for each other; whoever gives up
// loads what is stored, and the store's versions decide.
const waitForSecond = 100 * time.Millisecond

// sharedFor is how long streams of a category are looked up again before each use after another instance was seen to write them.
const sharedFor = 10 * time.Second

// cache keeps streams as the units of this instance have left them, committed or about to be, so that successive units of one stream
// need not wait for each other's commits, nor load what they know. It promises nothing: what a unit has seen is compared with the
// store when it commits.
type cache struct {
	mu      sync.Mutex
	streams map[string]*stream
	idle    *list.List // of *stream, the longest unused first
	maxIdle int
	shared  map[string]time.Time
}

// stream is one of them. One unit at a time has it.
type stream struct {
	name  string
	turn  chan struct{} // holds a token while a unit has the stream
	users int
	place *list.Element // in idle

	// Whoever has the stream may use these.
	state state
	last  *txn.Unit // the unit that left it like this, if that was not seen to be committed yet
}

// state is what is known of a stream: an aggregate, or its history. The zero state is nothing.
type state struct {
	aggregate Aggregate
	history   []app.Event
	version   int
	known     bool
}

func newCache() *cache {
	return &cache{streams: map[string]*stream{}, idle: list.New(), maxIdle: maxCached, shared: map[string]time.Time{}}
}

// take gives a unit the stream, after those that came before. It is nil if that takes too long for one that has others.
func (c *cache) take(ctx context.Context, name string, first bool) (*stream, error) {
	c.mu.Lock()
	s := c.streams[name]
	if s == nil {
		s = &stream{name: name, turn: make(chan struct{}, 1)}
		c.streams[name] = s
	}
	if s.place != nil {
		c.idle.Remove(s.place)
		s.place = nil
	}
	s.users++
	c.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		return s, nil
	default:
	}
	var enough <-chan time.Time
	if !first {
		enough = time.After(waitForSecond)
	}
	select {
	case s.turn <- struct{}{}:
		return s, nil
	case <-enough:
		c.leave(s)
		return nil, nil
	case <-ctx.Done():
		c.leave(s)
		return nil, ctx.Err()
	}
}

// give gives a stream back.
func (c *cache) give(s *stream) {
	if len(s.state.history) > maxHistory {
		s.state = state{}
	}
	<-s.turn
	c.leave(s)
}

func (c *cache) leave(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	s.place = c.idle.PushBack(s)
	for c.idle.Len() > c.maxIdle {
		oldest := c.idle.Remove(c.idle.Front()).(*stream)
		oldest.place = nil
		delete(c.streams, oldest.name)
	}
}

// current returns what is known of a stream that the unit has, and what the unit depends on by using it.
func (s *stream) current(u *txn.Unit) state {
	if s.last != nil && !s.last.Pending() {
		if s.last.Failed() {
			s.state = state{}
		}
		s.last = nil
	}
	if s.state.known {
		u.Needs(s.last)
	}
	return s.state
}

// foreign notes that another instance writes streams of a category.
func (c *cache) foreign(category string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared[category] = time.Now().Add(sharedFor)
}

// isShared tells whether another instance has written streams of a category lately.
func (c *cache) isShared(category string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.shared[category])
}

// after returns a history and what came after it, without changing it for others.
func after(history, events []app.Event) []app.Event {
	return append(slices.Clip(history), events...)
}
