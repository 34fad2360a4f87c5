package cqrs

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/kit/aggregate"
)

// Kind says what becomes of a message whose handling failed.
type Kind int

// The kinds.
const (
	KindNone         Kind = iota // no error
	KindUnknown                  // an error nobody foresaw: a few attempts, then the dead letters
	KindRefused                  // the domain says no: that is the answer
	KindConflict                 // somebody else was first: again, now
	KindTransient                // may work later: the store or the broker is away
	KindUnavailable              // a service outside is away or answers too late: may work later; counts for its breaker
	KindPermanent                // will never work: dead letter at once
	KindShuttingDown             // we are shutting down: the message comes back
)

// Errors that carry a kind. Wrap them with what was being done.
var (
	ErrConflict    = errors.New("changed by somebody else meanwhile")
	ErrTransient   = errors.New("not available at the moment")
	ErrUnavailable = errors.New("the service outside does not answer")
	ErrPermanent   = errors.New("can never be handled")
	ErrNotFound    = errors.New("not found")
	ErrKeyReused   = errors.New("the idempotency key was used for another request")

	ErrPoison = ErrPermanent // the older name
)

// ErrRejected says that the database rejects a statement, each time. It is permanent, and a fault of the service rather than of its caller.
var ErrRejected = fmt.Errorf("the database rejects it: %w", ErrPermanent)

// KindOf classifies an error by what it wraps.
func KindOf(err error) Kind {
	switch {
	case err == nil:
		return KindNone
	case errors.Is(err, ErrUnavailable):
		return KindUnavailable
	case errors.Is(err, context.Canceled):
		return KindShuttingDown
	case errors.Is(err, ErrConflict):
		return KindConflict
	case errors.Is(err, ErrTransient), errors.Is(err, context.DeadlineExceeded):
		return KindTransient
	case errors.Is(err, ErrPoison), errors.Is(err, aggregate.ErrUnknownType):
		return KindPermanent
	case aggregate.IsRefusal(err):
		return KindRefused
	}
	return KindUnknown
}

// Retryable tells whether the same attempt may succeed later without anybody changing anything. A loop that tries again until it succeeds
// must stop at an error that is not retryable.
func Retryable(err error) bool {
	switch KindOf(err) {
	case KindConflict, KindTransient, KindUnavailable, KindShuttingDown:
		return true
	case KindNone, KindUnknown, KindRefused, KindPermanent:
	}
	return false
}

func (k Kind) String() string {
	names := [...]string{"none", "unknown", "refused", "conflict", "transient", "down", "poison", "stopping"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}
