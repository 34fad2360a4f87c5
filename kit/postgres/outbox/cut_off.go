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
	pingWithin     = 3 * time.Second // so long a relay waits for an answer, and so long the answer counts
	failedPings    = 4               // in a row, one each heartbeat, while another relay reaches the broker: one that comes back does not answer all at once
)

// sight is what a relay knows of the way to the broker, its own and that of others.
type sight struct {
	failing func() time.Duration            // for how long sends have failed; 0: the last one has not
	ping    func(ctx context.Context) error // asks the broker whether it answers
	back    func()                          // is called when the broker answers a relay that was cut off

	mu       sync.Mutex
	asked    bool      // another relay does not reach the broker
	others   bool      // another relay reaches it
	pinging  bool      // the broker is being asked
	answered time.Time // when it has last answered
	failed   int       // how often in a row it has not, while others reach it
}

// says is what the next heartbeat says.
func (s *sight) says() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch failing := s.failing(); {
	case failing >= unreachedAfter && s.failed >= failedPings:
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
	if !others {
		s.failed = 0
	}
	failing := s.failing()
	if matters := asked && failing == 0 || others && failing >= unreachedAfter; !matters || s.pinging {
		return
	}
	s.pinging = true
	go func() {
		ctx, cancel := context.WithTimeout(ctx, pingWithin)
		defer cancel()
		s.noted(s.ping(ctx))
	}()
}

// noted notes the answer of the broker.
func (s *sight) noted(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pinging = false
	switch {
	case err == nil:
		if s.failed >= failedPings {
			s.back() // it has nothing to send, by which it would find out
		}
		s.failed, s.answered = 0, time.Now()
	case s.others:
		s.failed++
	}
}
