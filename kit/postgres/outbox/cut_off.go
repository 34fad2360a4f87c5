// A relay that alone does not reach the broker leaves its shards to those that do (ADR 41). While nobody reaches it, each keeps its shards: what is handed over in a
// process goes on then (ADR 35), but not in a relay that has just taken a shard. It decides nothing about order, which is for the leases. TestRelayThatIsCutOffLeavesItsShards
// shows it.

package outbox

import (
	"context"
	"sync"
	"time"
)

// What a relay says of the broker with its heartbeat.
const (
	unreached = "unreached" // its sends fail, and it asks whether others reach the broker
	answering = "reached"   // another relay has asked, and the broker answers
	cutOff    = "cut off"   // another relay reaches the broker, and this one does not: it has no shards
)

const (
	unreachedAfter = 5 * time.Second // of sends that fail
	slowAfter      = time.Second     // a send that takes longer counts as one that fails, from its beginning on
	pingWithin     = 5 * time.Second // so long a relay waits for an answer, and so long the answer counts
	pingsFailFor   = 4 * time.Second // while another relay reaches the broker: one that comes back does not answer all at once
)

// sight is what a relay knows of the way to the broker, its own and that of others.
type sight struct {
	failing func() time.Duration            // for how long sends have failed, or one has not ended; 0: they do not
	ping    func(ctx context.Context) error // asks the broker whether it answers
	back    func()                          // is called when the broker answers a relay that was cut off
	gone    func()                          // is called when a relay is cut off

	mu       sync.Mutex
	asked    bool      // another relay does not reach the broker
	others   bool      // another relay reaches it
	pinging  bool      // the broker is being asked
	answered time.Time // when it has last answered
	first    time.Time // when it was first asked in vain, while others reach it
	vain     bool      // it was asked in vain for pingsFailFor
}

// says is what the next heartbeat says.
func (s *sight) says() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch failing := s.failing(); {
	case failing >= unreachedAfter && s.vain:
		return cutOff
	case failing >= unreachedAfter:
		return unreached
	case failing == 0 && s.asked && time.Since(s.answered) < pingWithin:
		return answering
	default:
		return ""
	}
}

// heard takes what other relays say, and asks the broker in the background if that matters.
func (s *sight) heard(ctx context.Context, asked, others bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.others = asked, others
	failing := s.failing()
	if !others || failing < unreachedAfter {
		s.first, s.vain = time.Time{}, false
	}
	if matters := asked && failing == 0 || others && failing >= unreachedAfter; !matters || s.pinging {
		return
	}
	s.pinging = true
	go func() {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingWithin)
		defer cancel()
		s.noted(began, s.ping(ctx))
	}()
}

// noted notes the answer of the broker.
func (s *sight) noted(began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pinging = false
	switch {
	case err == nil:
		if s.vain {
			s.back() // it has nothing to send, by which it would find out
		}
		s.first, s.vain, s.answered = time.Time{}, false, time.Now()
	case s.others:
		if s.first.IsZero() {
			s.first = began
		}
		if time.Since(s.first) >= pingsFailFor && !s.vain {
			s.vain = true
			s.gone()
		}
	}
}

// sends are the requests to the broker that have not ended.
type sends struct {
	mu    sync.Mutex
	since map[*time.Time]bool
}

// begin notes that a request begins.
func (s *sends) begin() (end func()) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = map[*time.Time]bool{}
	}
	s.since[&now] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.since, &now)
	}
}

// longest is for how long the first of them has lasted.
func (s *sends) longest() (d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for began := range s.since {
		d = max(d, time.Since(*began))
	}
	return d
}
