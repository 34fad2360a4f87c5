package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
)

// Relay sends messages from the outbox to the broker: messages of different keys in parallel, messages of one key in order, every message at
// least once.
type Relay struct {
	db        *sqlx.DB
	sender    func() Sender
	options   Options
	buffer    *buffer
	handed    *handed
	leases    *leases
	lanes     []*lane
	downSince atomic.Pointer[time.Time] // since when requests fail by a fault of the broker; nil: the last one succeeded
	sends     sendTimes
	timers    chan struct{} // wakes the goroutine that looks for due timers
	nextLook  atomic.Int64  // Unix time in ns at which it looks next
	retry     chan struct{} // wakes the goroutine that retries suspended topics
	log       *slog.Logger
}

// Sender sends messages to the broker.
type Sender interface {
	// Send sends messages, each to its topic, and returns an error for each message, nil if the broker has acknowledged it. Of the messages of
	// one key, it sends none after one that failed. Once ctx is done it starts no request, and cancels the running one if it can.
	Send(ctx context.Context, topics []string, messages []*message.Message) []error
}

// Options of a Relay. What is zero is replaced by the default.
type Options struct {
	// DSN is for the relay's own two connections: one renews its leases, one listens for other instances' commits.
	DSN string

	// Host identifies the host of this relay, and Since is the start of the instance. Of the relays on one host the one that started first
	// works, and the others stand by. Empty: a host of its own.
	Host  string
	Since time.Time

	// Refused tells errors of messages that the broker will never accept, which become dead letters, from other errors. Default: no error is
	// one, and a message is sent again until the broker acknowledges it.
	Refused func(error) bool

	// TopicFault tells errors of a topic from errors of the broker. The topic is then suspended: its messages wait and are sent again with
	// growing delays, and other topics are not affected. Default: no error is one.
	TopicFault func(error) bool

	// Repair is called before a suspended topic is tried again. Optional.
	Repair func(ctx context.Context, topic string) error

	// Local are topics whose messages handlers of this process may take; senders then implement Local. They have a lane of their own. Default: none.
	Local []string

	// Ping returns an error if the broker does not answer. While it is away, messages of Local are sent only after it has answered. Default: it answers.
	Ping func(ctx context.Context) error

	// Preferred returns the shards that this relay should hold, because this process handles the messages of their keys. It holds those that no
	// other relay prefers, and an equal part of the others. Default: none.
	Preferred func() []int16

	// Batch is the number of rows of a shard that are read at a time. Default 250.
	Batch int

	// Poll is how often the relay reads without a notification, in case one was lost. Default 1 s.
	Poll time.Duration

	// OnRelayed receives the number of messages that the broker has acknowledged. Optional.
	OnRelayed func(n int)

	// OnBlocked is called for each message that the broker refused. Optional.
	OnBlocked func(topic, key string, err error)
}

// NewRelay makes a relay. Run starts it. Each lane has a sender of its own; PublisherSender makes one of any publisher.
func NewRelay(db *sqlx.DB, sender func() Sender, log *slog.Logger, o Options) *Relay {
	if o.Batch == 0 {
		o.Batch = 250
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	if o.Local == nil {
		o.Local = []string{} // not NULL in SQL
	}
	if o.Preferred == nil {
		o.Preferred = func() []int16 { return nil }
	}
	if o.Ping == nil {
		o.Ping = func(context.Context) error { return nil }
	}
	if o.Refused == nil {
		o.Refused = func(error) bool { return false }
	}
	if o.OnRelayed == nil {
		o.OnRelayed = func(int) {}
	}
	if o.TopicFault == nil {
		o.TopicFault = func(error) bool { return false }
	}
	if o.Repair == nil {
		o.Repair = func(context.Context, string) error { return nil }
	}
	if o.OnBlocked == nil {
		o.OnBlocked = func(string, string, error) {}
	}
	r := &Relay{db: db, sender: sender, options: o, log: log, leases: newLeases(o, log), buffer: newBuffer(), handed: newHanded(), timers: make(chan struct{}, 1), retry: make(chan struct{}, 1)}
	r.lanes = append(r.lanes, newLane(false))
	if len(o.Local) > 0 {
		r.lanes = append(r.lanes, newLane(true))
	}
	r.leases.taking = r.handed.forgetSent
	r.leases.changed = r.readAll
	r.leases.broker = &brokerCheck{failing: r.failing, ping: r.options.Ping, cutOff: r.cutOff, restored: func() { r.reached(true, nil) }}
	return r
}

// readAll reads the outbox again from its lowest rows on.
func (r *Relay) readAll() {
	for _, l := range r.lanes {
		l.marks.reset()
	}
	r.Wake()
}

// Wake makes the relay read the outbox now. It does not block.
func (r *Relay) Wake() {
	for _, l := range r.lanes {
		wake(l.wake)
	}
	wake(r.timers)
}

func wake(w chan<- struct{}) {
	select {
	case w <- struct{}{}:
	default:
	}
}

// Held is the number of shards that this relay holds.
func (r *Relay) Held() int { return r.leases.count() }

// HoldsAll tells whether this relay holds all shards, so that no other relay needs a notification.
func (r *Relay) HoldsAll() bool { return r.leases.all() }

// Run relays until ctx is done. Then it finishes the batches in flight and gives its shards back.
func (r *Relay) Run(ctx context.Context) {
	var background, lanes sync.WaitGroup
	leaseCtx, release := context.WithCancel(context.WithoutCancel(ctx))
	background.Go(func() { r.leases.run(leaseCtx) })
	background.Go(func() { listen(leaseCtx, r.options.DSN, r.log, r.readAll, r.notified) })
	background.Go(func() { r.promote(ctx) })
	lanes.Go(func() { r.retrySuspended(ctx) })
	for _, l := range r.lanes {
		lanes.Go(func() { r.work(ctx, l) })
	}
	lanes.Wait()
	r.removeHandled()
	release()
	background.Wait()
}

func (r *Relay) work(ctx context.Context, l *lane) {
	failures, more := 0, 0
	sender := r.sender()
	if c, ok := sender.(Claimer); ok && l.local {
		r.handed.setClaimer(c)
		defer r.handed.setClaimer(nil)
	}
	for ctx.Err() == nil {
		relayed, err := r.pipeline(ctx, l, sender)
		if relayed > 0 {
			failures = 0
		}
		if err != nil && ctx.Err() == nil {
			if !errors.Is(err, errReread) {
				r.log.Warn("relay: sending failed, retrying", "error", err, "local", l.local, "relayed meanwhile", relayed)
				failures++
			}
			if l.local {
				failures = 0 // messages for handlers do not wait for the broker
				waited := more
				if more = l.waits(); more > 0 && more <= waited { // otherwise the rows behind them are read next
					sleep(ctx, l.wake, min(r.options.Poll, time.Second)) // the lane is woken when they can go on
				}
			}
			pause(ctx, min(50*time.Millisecond<<min(max(failures-1, 0), 6), 2*time.Second)) // a commit does not repair the broker
		}
	}
	if c, ok := sender.(interface{ Close() }); ok {
		c.Close()
	}
}

func sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-wake:
	case <-time.After(d):
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
