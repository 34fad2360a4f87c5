// Lanes divide rows by topic, so that messages for handlers of this process do not wait for the broker. A row is always in the same lane of a relay, so one lane keeps the order of a
// key. TestHandlersGoOnWhileTheBrokerIsAway shows it.

package outbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// lane is the rows of the topics of Options.Local, or of all other topics. Lanes do not wait for each other, so a broker that is away or slow does not
// stop messages for handlers of this process.
type lane struct {
	local   bool
	marks   *lowWaterMarks
	wake    chan struct{}
	backlog atomic.Bool // the last read has reached its limit

	// Of the local lane:
	generation atomic.Int64  // handed.sentGeneration that its sender knows
	ready      atomic.Bool   // all messages of the last batch could be handed over, or sent
	waiting    map[int16]int // number of rows that wait for other rows or for the broker, by shard
	probed     time.Time     // time of the last send or ping
	probing    atomic.Bool   // a ping is in flight
	answered   atomic.Int64  // time of the last ping that succeeded, in ns since 1970; 0 after the lane has sent something because of it
}

func newLane(local bool) *lane {
	return &lane{local: local, marks: newLowWaterMarks(), wake: make(chan struct{}, 1), waiting: map[int16]int{}}
}

// waits is the number of rows that wait for other rows or for the broker. It is called while no pipeline runs.
func (l *lane) waits() (n int) {
	for _, of := range l.waiting {
		n += of
	}
	return n
}

// A send of the local lane takes at most localSend. While the broker is away the lane sends nothing: a message that cannot be handed over now may be later, unless it may have been
// sent. The lane pings the broker every probeEvery. An answer within probeWithin counts for answeredFor. When the other lane has sent something, the local lane continues at once.
const (
	localSend   = 2 * time.Second
	probeEvery  = time.Second
	probeWithin = 10 * time.Second
	answeredFor = 2 * time.Second
)

// reached notes the result of a request to the broker: the broker has accepted some of its messages, or err says why it has not.
func (r *Relay) reached(accepted bool, err error) {
	switch {
	case err == nil || accepted:
		if r.downSince.Swap(nil) != nil {
			r.Wake()
		}
	case !errors.Is(err, ErrLeaseLost):
		now := time.Now()
		r.downSince.CompareAndSwap(nil, &now)
	}
}

// down tells whether the last request to the broker has failed, by a fault of the broker.
func (r *Relay) down() bool { return r.downSince.Load() != nil }

// cutOff notes that the broker does not answer, although the send that hangs has not failed.
func (r *Relay) cutOff() {
	since := time.Now().Add(-unreachedAfter)
	r.downSince.CompareAndSwap(nil, &since)
}

// failing is for how long sends of this relay have failed or hung; 0: they succeed.
func (r *Relay) failing() (d time.Duration) {
	if since := r.downSince.Load(); since != nil {
		d = max(1, time.Since(*since))
	}
	if slow := r.sends.longest(); slow > slowAfter {
		d = max(d, slow)
	}
	return d
}

// brokerAway tells whether the local lane must not send now, because the last send to the broker has failed. It then pings the broker in the background.
func (r *Relay) brokerAway(ctx context.Context, l *lane) bool {
	switch {
	case !r.down() || time.Since(time.Unix(0, l.answered.Swap(0))) < answeredFor:
		l.probed = time.Now()
		return false
	case time.Since(l.probed) >= probeEvery && l.probing.CompareAndSwap(false, true):
		l.probed = time.Now()
		go func() {
			defer l.probing.Store(false)
			if r.ping(ctx) == nil {
				l.answered.Store(time.Now().UnixNano())
				wake(l.wake)
			}
		}()
	}
	return true
}

// ping asks the broker whether it answers.
func (r *Relay) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	return r.options.Ping(ctx)
}

// HandsOver tells whether all messages of the local topics that this relay reads can be handed to handlers of this process, even if the broker is away: the relay
// knows which messages were sent before, and no message waits for the broker.
func (r *Relay) HandsOver() bool {
	l := r.localLane()
	return l != nil && l.ready.Load() && l.generation.Load() == r.handed.generation()
}

// localLane is the lane of the topics of Options.Local; nil if there are none.
func (r *Relay) localLane() *lane {
	if last := r.lanes[len(r.lanes)-1]; last.local {
		return last
	}
	return nil
}
