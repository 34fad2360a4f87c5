// Leases of shards (ADR 9, 23). One relay at a time sends a key's messages: its lease ends earlier by its own clock than by the database's, after which another relay takes the shard.
// TestRelaysKeepKeyOrderWhenLeasesAreLost, TestLostLeaseFencesSends and TestRelaysShareTheShards show it.

package outbox

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A lease lasts for leaseFor and is renewed every heartbeatEvery. By its own clock a relay stops sending leaseMargin earlier, so that a running
// request has ended before another relay takes the shard over.
const (
	leaseFor       = 5 * time.Second
	heartbeatEvery = time.Second
	leaseMargin    = time.Second
)

// ErrLeaseLost ends what a relay does with shards that another relay may have taken over.
var ErrLeaseLost = errors.New("the lease on the shard was lost")

// leases are the shards that this instance relays: rows of relay_leases whose owner is this session. The heartbeat has a goroutine and a
// connection of its own and never waits for a send, so a lease lasts for as long as a send takes. A session ends when one of its leases is
// lost or was not renewed in time: its sends are cancelled, and its token no longer matches a row.
type leases struct {
	dsn          string
	host         string
	since        time.Time
	log          *slog.Logger
	prefers      func() []int16
	taking       func() // called before shards are used that another relay may have had
	changed      func() // called after the held shards have changed
	broker       *brokerCheck
	heartbeatNow chan struct{}

	mu      sync.Mutex
	session *session
	ended   []string      // tokens of earlier sessions, whose rows may not have expired yet
	inUse   map[int16]int // how many batches of a shard are under way
	giving  map[int16]bool
	standby bool
	cutOff  bool // from the broker, which other relays reach
}

// session is a period in which the relay held its leases without a gap.
type session struct {
	owner  string
	ctx    context.Context //nolint:containedctx // cancelled when the session ends
	end    context.CancelCauseFunc
	expiry *time.Timer
	until  time.Time // when it ends by itself
	shards map[int16]bool
}

// lease allows a lane to send batches of some shards.
type lease struct {
	owner  string
	ctx    context.Context //nolint:containedctx // cancelled when the lease is lost
	shards []int16
	done   func()      // must be called when the batch is finished
	valid  func() bool // tells whether the lease still lasts
	lost   func()      // must be called when the database says that the lease is lost
}

func newLeases(o Options, log *slog.Logger) *leases {
	host := o.Host
	if host == "" {
		host = uuid.NewString() // a host of its own
	}
	return &leases{prefers: o.Preferred, dsn: o.DSN, host: host, since: o.Since, log: log, heartbeatNow: make(chan struct{}, 1), inUse: map[int16]int{}, giving: map[int16]bool{}}
}

// valid tells whether the session's leases still last. It compares the wall clock too, because the monotonic clock stops while a
// virtual machine is suspended.
func (s *session) valid() bool {
	now := time.Now()
	return s.ctx.Err() == nil && now.Before(s.until) && now.Round(0).Before(s.until.Round(0))
}

// use returns a lease on the held shards, or on the named ones of them; nil if there are none. A shard is not given away before its batches are done.
func (l *leases) use(named ...int16) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil || !l.session.valid() {
		return nil
	}
	var shards []int16
	for shard := range l.session.shards {
		if !l.giving[shard] && (len(named) == 0 || slices.Contains(named, shard)) {
			shards = append(shards, shard)
			l.inUse[shard]++
		}
	}
	if len(shards) == 0 {
		return nil
	}
	slices.Sort(shards)
	s := l.session
	return &lease{
		owner: s.owner, ctx: s.ctx, shards: shards,
		valid: func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return s.valid()
		},
		lost: func() {
			s.end(ErrLeaseLost)
			wake(l.heartbeatNow)
		},
		done: sync.OnceFunc(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, shard := range shards {
				if l.inUse[shard]--; l.inUse[shard] == 0 && l.giving[shard] {
					wake(l.heartbeatNow)
				}
			}
		}),
	}
}

// holds returns the held shards, without those that are being given away: another relay will send messages that are committed now.
func (l *leases) holds() map[int16]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil || !l.session.valid() {
		return nil
	}
	held := maps.Clone(l.session.shards)
	maps.DeleteFunc(held, func(shard int16, _ bool) bool { return l.giving[shard] })
	return held
}

// all tells whether all shards are held, and none is being given away.
func (l *leases) all() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session != nil && l.session.valid() && len(l.session.shards) == Shards && len(l.giving) == 0
}

func (l *leases) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil || !l.session.valid() {
		return 0
	}
	return len(l.session.shards)
}
