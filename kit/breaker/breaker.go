// Package breaker has circuit breakers for external services, with a Watermill middleware in which messages wait while the breaker is open.
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

// Default returns the settings of a breaker that opens when at least half of ten or more requests within ten seconds have failed. After five seconds
// the breaker lets three requests through to try again.
func Default(name string) gobreaker.Settings { return Settings(name, 10, 0.5) }

// Settings returns the settings of a breaker that opens when at least minRequests were made within ten seconds and at least the ratio of them, from 0
// to 1, has failed. After five seconds the breaker lets three requests through to try again.
func Settings(name string, minRequests uint32, ratio float64) gobreaker.Settings {
	return gobreaker.Settings{
		Name: name, MaxRequests: 3, Interval: 10 * time.Second, Timeout: 5 * time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= minRequests && float64(c.TotalFailures) >= ratio*float64(c.Requests)
		},
	}
}

// Options are the options of a breaker.
type Options struct {
	// Failed tells whether an error is a failure of the destination. A refusal is not a failure. Required.
	Failed func(error) bool

	// OnChange is called on every change of the state, with "closed", "half-open" or "open". It must not call the breaker. Optional.
	OnChange func(name, from, to string)

	// Stopping is closed when the service stops. Messages that wait in Middleware then return ErrStopping. Optional.
	Stopping <-chan struct{}
}

// Breaker is the circuit breaker of one destination. It is safe for concurrent use.
type Breaker struct {
	name    string
	openFor time.Duration
	options Options
	circuit *gobreaker.TwoStepCircuitBreaker

	mu       sync.Mutex
	openedAt time.Time
	changes  []Change
}

// Change is a change of a breaker's state.
type Change struct {
	At       time.Time
	From, To string
}

// maxChanges is the number of state changes that a breaker keeps.
const maxChanges = 50

// Snapshot is the state of a breaker. Requests and Failures count since the last state change or the start of the ten-second window.
type Snapshot struct {
	Name               string
	State              string // closed, half-open, open
	Requests, Failures int
	OpenedAt           time.Time // zero if the breaker never opened
	Changes            []Change  // the last 50 state changes, oldest first
}

// ErrStopping is returned if the service stops, or the message's context is done, while a message waits for the breaker. It wraps context.Canceled.
var ErrStopping = stoppingError{}

type stoppingError struct{}

func (stoppingError) Error() string { return "stopped while waiting for an open breaker" }
func (stoppingError) Unwrap() error { return context.Canceled }

// New makes a breaker with the thresholds and times of gobreaker's settings. It calls OnStateChange of the settings too.
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

// Snapshot returns the current state of the breaker.
func (b *Breaker) Snapshot() Snapshot {
	state, counts := b.circuit.State(), b.circuit.Counts()
	b.mu.Lock()
	defer b.mu.Unlock()
	return Snapshot{b.name, state.String(), int(counts.Requests), int(counts.TotalFailures), b.openedAt, slices.Clone(b.changes)}
}

// Do calls f and returns its error. If the breaker is open, Do does not call f and returns gobreaker.ErrOpenState, or ErrTooManyRequests while the
// breaker tries again. A panic of f is passed on and does not count as a failure of the destination.
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

// Middleware makes messages wait while the breaker is open. Without it, messages would fail and be retried in a loop, or become dead letters although
// nothing is wrong with them. The wait pauses only the partitions of this destination.
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
