// Lanes: rows that do not wait for each other, by topic. What handlers of this process can take does not wait for the broker. A row is always in the same lane of
// a relay, so the order of a key is that of one worker. TestHandlersGoOnWhileTheBrokerIsAway shows it.

package outbox

import (
	"errors"
	"sync/atomic"
	"time"
)

// lane is a part of the rows, by topic: those of Options.Local, or all others. Lanes do not wait for each other, so a broker that is away or slow does not
// stop what handlers of this process can take.
type lane struct {
	local bool
	marks *lowWaterMarks
}

// worker relays the shards of a lane that are its part.
type worker struct {
	*lane
	part, of int
	wake     chan struct{}

	generation atomic.Int64 // of what its sender remembers
}

func (r *Relay) addLane(local bool, workers int) {
	l := &lane{local: local, marks: newLowWaterMarks()}
	r.lanes = append(r.lanes, l)
	for part := range workers {
		r.workers = append(r.workers, &worker{lane: l, part: part, of: workers, wake: make(chan struct{}, 1)})
	}
}

// probeEvery is how often the local lane tries to send while the broker is away.
const probeEvery = time.Second

// reached notes whether the broker took part in a request: err is its fault.
func (r *Relay) reached(err error) {
	switch {
	case err == nil:
		r.down.Store(0)
	case !errors.Is(err, ErrLeaseLost):
		r.down.Store(time.Now().UnixNano())
	}
}

// away tells whether the broker was away a moment ago, so that a request would only make others wait.
func (r *Relay) away() bool {
	failed := r.down.Load()
	return failed > 0 && time.Since(time.Unix(0, failed)) < probeEvery
}
