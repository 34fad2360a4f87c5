package cqrs

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/kit/aggregate"
)

// Kind classifies an error, and decides whether a failed message is retried.
type Kind int

// The kinds.
const (
	KindNone         Kind = iota // no error
	KindUnknown                  // an unexpected error: a few attempts, then a dead letter
	KindRefused                  // a domain rule rejects the command: an answer, not a failure
	KindConflict                 // another unit of work changed the same data first: retried at once
	KindTransient                // the database or the broker is unavailable: retried later
	KindUnavailable              // an external service is unavailable or too slow: retried later, and counted by its circuit breaker
	KindPermanent                // a retry cannot succeed: a dead letter at once
	KindShuttingDown             // the service is stopping: the broker delivers the message again
)

// Errors that KindOf classifies. Wrap them with the operation that failed. ErrNotFound and ErrKeyReused have KindUnknown.
var (
	ErrConflict    = errors.New("changed by another unit of work")
	ErrTransient   = errors.New("temporarily unavailable")
	ErrUnavailable = errors.New("external service unavailable")
	ErrPermanent   = errors.New("cannot be processed")
	ErrNotFound    = errors.New("not found")
	ErrKeyReused   = errors.New("the idempotency key was used for another request")
)

// ErrRejected is the error for a statement that the database rejects, and would reject again. It wraps ErrPermanent. The fault is in the service, not
// in its caller.
var ErrRejected = fmt.Errorf("the database rejects it: %w", ErrPermanent)

// KindOf returns the kind of the errors that err wraps: KindNone for nil, and KindUnknown if err wraps no known error.
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
	case errors.Is(err, ErrPermanent), errors.Is(err, aggregate.ErrUnknownType):
		return KindPermanent
	case aggregate.IsRefusal(err):
		return KindRefused
	}
	return KindUnknown
}

// Retryable tells whether the same operation may succeed later. A loop that retries until an operation succeeds must stop at an error that is not
// retryable.
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
