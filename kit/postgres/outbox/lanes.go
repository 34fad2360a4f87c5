// Lanes: rows that do not wait for each other, by topic. What handlers of this process can take does not wait for the broker. A row is always in the same lane of
// a relay, so the order of a key is that of one lane. TestHandlersGoOnWhileTheBrokerIsAway shows it.

package outbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// lane is a part of the rows, by topic: those of Options.Local, or all others. Lanes do not wait for each other, so a broker that is away or slow does not
// stop what handlers of this process can take.
type lane struct {
	local   bool
	marks   *lowWaterMarks
	wake    chan struct{}
	backlog atomic.Bool // there may be more rows than were read

	// Of the local lane:
	generation atomic.Int64  // of what its sender remembers
	ready      atomic.Bool   // all messages could be handed over, or sent
	waiting    map[int16]int // rows that wait for others or for the broker, by shard
	probed     time.Time     // when it last sent something, or asked whether the broker answers
	probing    atomic.Bool   // it is being asked
	answered   atomic.Int64  // when it did, in ns since 1970; 0 once the lane has sent something because of that
}

func newLane(local bool) *lane {
	return &lane{local: local, marks: newLowWaterMarks(), wake: make(chan struct{}, 1), waiting: map[int16]int{}}
}

// waits is how many rows wait for others or for the broker. It is called while no pipeline runs.
func (l *lane) waits() (n int) {
	for _, of := range l.waiting {
		n += of
	}
	return n
}

// The local lane sends for at most localSend at a time. While the broker is away it sends nothing: what cannot be handed over now may be soon, unless it may have been
// sent. Each probeEvery the broker is asked whether it answers within probeWithin, which counts for answeredFor, and the lane goes on at once when the other one has sent something.
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
		if r.down.Swap(false) {
			r.Wake()
		}
	case !errors.Is(err, ErrLeaseLost):
		if !r.down.Swap(true) {
			r.downSince.Store(time.Now().UnixNano())
		}
	}
}

// cutOff notes that the broker does not answer, although the send that hangs has not failed.
func (r *Relay) cutOff() {
	if !r.down.Load() {
		r.downSince.Store(time.Now().Add(-unreachedAfter).UnixNano())
		r.down.Store(true)
	}
}

// failing is for how long sends of this relay have failed or hung; 0: they succeed.
func (r *Relay) failing() (d time.Duration) {
	if r.down.Load() {
		d = max(1, time.Since(time.Unix(0, r.downSince.Load())))
	}
	if slow := r.sends.longest(); slow > slowAfter {
		d = max(d, slow)
	}
	return d
}

// brokerAway tells whether the local lane must not send now, because the last send to the broker has failed. It then pings the broker in the background.
func (r *Relay) brokerAway(ctx context.Context, l *lane) bool {
	switch {
	case !r.down.Load() || time.Since(time.Unix(0, l.answered.Swap(0))) < answeredFor:
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

// HandsOver tells whether handlers of this process can take all messages of the local topics that this relay reads, even if the broker is away: it
// knows what was sent before, and no message waits for the broker.
func (r *Relay) HandsOver() bool {
	l := r.localLane()
	return l != nil && l.ready.Load() && l.generation.Load() == r.handed.generation()
}

// localLane is the lane of what handlers of this process can take; nil if there is none.
func (r *Relay) localLane() *lane {
	if last := r.lanes[len(r.lanes)-1]; last.local {
		return last
	}
	return nil
}
