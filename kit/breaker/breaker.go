// Package breaker puts circuit breakers in front of destinations, as a Watermill middleware that waits while the breaker is open.
package breaker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/sony/gobreaker"
)

// Default are the settings of a breaker that opens when half of at least ten requests within ten seconds have failed, and lets three requests
// try again after five seconds.
func Default(name string) gobreaker.Settings { return Settings(name, 10, 0.5) }

// Settings are those of a breaker that opens when a ratio, from 0 to 1, of at least minRequests within ten seconds have failed, and lets three
// requests try again after five seconds.
func Settings(name string, minRequests uint32, ratio float64) gobreaker.Settings {
	return gobreaker.Settings{
		Name: name, MaxRequests: 3, Interval: 10 * time.Second, Timeout: 5 * time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= minRequests && float64(c.TotalFailures) >= ratio*float64(c.Requests)
		},
	}
}

// Options of a breaker.
type Options struct {
	// Failed tells which errors are failures of the destination. A refusal is not one. Required.
	Failed func(error) bool

	// OnChange receives every state change: "closed", "half-open", "open". It must not call the breaker. Optional.
	OnChange func(name, from, to string)

	// Stopping ends the waiting of Middleware when the service stops. Optional.
	Stopping <-chan struct{}
}

// Breaker guards one destination.
type Breaker struct {
	name    string
	openFor time.Duration
	options Options
	circuit *gobreaker.TwoStepCircuitBreaker

	mu       sync.Mutex
	openedAt time.Time
	changes  []Change
}

// Change is a change of the state.
type Change struct {
	At       time.Time
	From, To string
}

// maxChanges is the number of state changes that are kept.
const maxChanges = 50

// Snapshot is the state of a breaker. Requests and failures count since its last change or the beginning of its window.
type Snapshot struct {
	Name               string
	State              string // closed, half-open, open
	Requests, Failures int
	OpenedAt           time.Time // zero if it never was
	Changes            []Change  // the last ones, oldest first
}

// ErrStopping says that the service stopped while a message waited for the breaker. It is a context.Canceled.
var ErrStopping = stoppingError{}

type stoppingError struct{}

func (stoppingError) Error() string { return "stopped while waiting for an open breaker" }
func (stoppingError) Unwrap() error { return context.Canceled }

// New makes a breaker from gobreaker's settings: its thresholds and times. OnStateChange of the settings is called too.
func New(settings gobreaker.Settings, o Options) *Breaker {
	b := &Breaker{name: settings.Name, openFor: settings.Timeout, options: o}
	inner := settings.OnStateChange
	settings.OnStateChange = func(name string, from, to gobreaker.State) {
		b.changed(from.String(), to.String())
		if inner != nil {
			inner(name, from, to)
		}
		if o.OnChange != nil {
			o.OnChange(name, from.String(), to.String())
		}
	}
	b.circuit = gobreaker.NewTwoStepCircuitBreaker(settings)
	return b
}

func (b *Breaker) changed(from, to string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now().UTC()
	if to == gobreaker.StateOpen.String() {
		b.openedAt = now
	}
	b.changes = append(b.changes, Change{now, from, to})
	b.changes = b.changes[max(0, len(b.changes)-maxChanges):]
}

// Snapshot reads the breaker.
func (b *Breaker) Snapshot() Snapshot {
	state, counts := b.circuit.State(), b.circuit.Counts()
	b.mu.Lock()
	defer b.mu.Unlock()
	return Snapshot{b.name, state.String(), int(counts.Requests), int(counts.TotalFailures), b.openedAt, slices.Clone(b.changes)}
}

// Do runs f unless the breaker is open; then the error is gobreaker's ErrOpenState or ErrTooManyRequests. A panic is passed on, and does not
// count as a failure of the destination.
func (b *Breaker) Do(f func() error) error {
	done, err := b.circuit.Allow()
	if err != nil {
		return err
	}
	succeeded := true
	defer func() { done(succeeded) }()
	err = f()
	succeeded = err == nil || !b.options.Failed(err)
	return err
}

// IsOpen tells whether err says that the breaker rejected the call.
func IsOpen(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
}

// Middleware makes messages wait while the breaker is open. Without it they would fail and be retried in a loop, or become dead letters
// although nothing is wrong with them. Waiting pauses the partitions of this destination and no others.
func (b *Breaker) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (produced []*message.Message, err error) {
		for {
			err = b.Do(func() (err error) {
				produced, err = next(msg)
				return err
			})
			if !IsOpen(err) {
				return produced, err
			}
			select {
			case <-b.options.Stopping:
				return nil, ErrStopping
			case <-msg.Context().Done():
				return nil, ErrStopping
			case <-time.After(b.openFor / 50):
			}
		}
	}
}
