// A relay that alone cannot reach the broker gives its shards to relays that can (ADR 41). While no relay reaches the broker, each keeps its shards, because commands to
// the own process are still handed over then (ADR 35), and only by a relay that has held the shard before. Nothing here decides the order of messages; the leases
// do. TestRelayThatIsCutOffLeavesItsShards and TestOutageMovesNoShards show it.

package outbox

import (
	"context"
	"sync"
	"time"
)

// Values of relays.broker: what a relay reports of the broker with its heartbeat.
const (
	brokerUnreached = "unreached" // its sends fail; it asks other relays whether they reach the broker
	brokerReached   = "reached"   // the broker answers; reported only if another relay asks
	brokerCutOff    = "cut off"   // other relays reach the broker and this one does not: it holds no shards
)

const (
	unreachedAfter = 5 * time.Second // sends have failed for so long
	slowAfter      = time.Second     // a send that takes longer counts as failing since its start
	pingTimeout    = 5 * time.Second // of a ping; its answer is reported for as long
	cutOffAfter    = 4 * time.Second // pings have failed for so long while another relay reaches the broker; relays do not all reconnect at once
)

// brokerCheck decides whether this relay alone is cut off from the broker. It compares the relay's own pings with the reports of other relays.
type brokerCheck struct {
	failing  func() time.Duration            // for how long sends have failed or hung; 0: they succeed
	ping     func(ctx context.Context) error // returns nil if the broker answers
	cutOff   func()                          // called when the relay becomes cut off
	restored func()                          // called when the broker has answered a ping

	mu          sync.Mutex
	peersAsk    bool      // another relay reports that it does not reach the broker
	peersReach  bool      // another relay reports that the broker answers
	pinging     bool      // a ping is in flight
	answered    time.Time // time of the last ping that succeeded
	failedSince time.Time // start of the first ping that failed while another relay reached the broker; zero: none
	isCutOff    bool
}

// report returns the value for the next heartbeat; "" if there is nothing to report.
func (c *brokerCheck) report() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch failing := c.failing(); {
	case failing >= unreachedAfter && c.isCutOff:
		return brokerCutOff
	case c.peersAsk && time.Since(c.answered) < pingTimeout: // also if its sends are slow
		return brokerReached
	case failing >= unreachedAfter:
		return brokerUnreached
	default:
		return ""
	}
}

// update takes the reports of other relays, and starts a ping if its result can change something. The ping ends with ctx.
func (c *brokerCheck) update(ctx context.Context, peersAsk, peersReach bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peersAsk, c.peersReach = peersAsk, peersReach
	suspect := c.suspect()
	if !suspect {
		c.failedSince, c.isCutOff = time.Time{}, false
	}
	if c.pinging || !suspect && !peersAsk {
		return
	}
	c.pinging = true
	go func() {
		began := time.Now()
		pinging, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		c.pinged(began, c.ping(pinging), ctx.Err() != nil)
	}()
}

// suspect tells whether this relay alone may be cut off: its sends fail while another relay reaches the broker.
func (c *brokerCheck) suspect() bool { return c.peersReach && c.failing() >= unreachedAfter }

// pinged takes the result of a ping. Cancelled says that the ping has no result, because its session has ended.
func (c *brokerCheck) pinged(began time.Time, err error, cancelled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinging = false
	switch {
	case err == nil:
		c.restored() // the relay may have nothing to send that would show it
		c.failedSince, c.isCutOff, c.answered = time.Time{}, false, time.Now()
	case cancelled || !c.suspect():
	case c.failedSince.IsZero():
		c.failedSince = began
		fallthrough
	default:
		if time.Since(c.failedSince) >= cutOffAfter && !c.isCutOff {
			c.isCutOff = true
			c.cutOff()
		}
	}
}

// sendTimes are the start times of the sends in flight.
type sendTimes struct {
	mu      sync.Mutex
	started map[*time.Time]bool
}

// begin adds a send. End removes it.
func (s *sendTimes) begin() (end func()) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started == nil {
		s.started = map[*time.Time]bool{}
	}
	s.started[&now] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.started, &now)
	}
}

// longest is the age of the oldest send in flight; 0 if there is none.
func (s *sendTimes) longest() (d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for started := range s.started {
		d = max(d, time.Since(*started))
	}
	return d
}
