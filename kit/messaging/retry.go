// Retries by the kind of an error. A failing message blocks its partition for no longer than maxBlocking, unless the database cannot store the
// message. TestRetryOutlivesAKilledInstance shows it.

package messaging

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// A message that fails with an unknown error is attempted maxUnknown times before it becomes a dead letter: maxAtOnce times at once, then later.
const (
	maxAtOnce  = 3
	maxUnknown = 8
)

// maxBlocking is how long the attempts of a message may block its partition while the message waits for a lock or for the database.
const maxBlocking = 3 * time.Second

// keepTrying calls do until it succeeds, the error is not retryable, the service stops, or ctx is done: the broker has then assigned the partition to
// another instance, and waits until this instance releases it. The error wraps context.Canceled, so that the broker delivers the message again.
func (o Options) keepTrying(ctx context.Context, do func() error, what string) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil {
			return nil
		}
		if !cqrs.Retryable(err) {
			o.Log.Error("cannot "+what, "error", err)
			return fmt.Errorf("%s: %w: %w", what, context.Canceled, err) // the broker delivers the message again
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: the message is delivered again: %w: %w", what, context.Canceled, err)
		}
		o.Log.Warn("cannot "+what+", retrying", "error", err)
		if !o.wait(ctx, backoff(attempt)) {
			return fmt.Errorf("%s: stopping: %w: %w", what, context.Canceled, err)
		}
	}
}

// Retry retries a message by the kind of its error. After a conflict or another retryable error it calls the handler again at once, a few times, and
// then stores the message in the queue for a later retry. If an external service is unavailable, it stores the message without further attempts. The
// key of a stored message is blocked until the retry; other keys are not affected. While the database is unavailable and cannot store the message,
// Retry continues to call the handler, with growing pauses. It returns permanent errors and refusals at once, and unknown errors after 8 attempts.
// Add this middleware inside KeyOrder and DeadLetters; DeadLetters stores the messages whose errors Retry returns.
func Retry(queue KeyQueue, o Options) message.HandlerMiddleware {
	o = o.complete()
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) { return o.retry(queue, msg, next) }
	}
}

func (o Options) retry(queue KeyQueue, msg *message.Message, next message.HandlerFunc) ([]*message.Message, error) {
	m := o.Received(msg)
	at, _ := msg.Context().Value(attemptKey{}).(attempt)
	failures := at.failures
	began := time.Now()
	for attempt := 1; ; attempt++ {
		produced, err := next(msg)
		kind := cqrs.KindOf(err)
		if at.early {
			return produced, err
		}
		switch kind {
		case cqrs.KindNone, cqrs.KindShuttingDown, cqrs.KindPermanent, cqrs.KindRefused:
			return produced, err
		case cqrs.KindUnavailable, cqrs.KindUnknown, cqrs.KindTransient, cqrs.KindConflict:
		}
		if kind == cqrs.KindUnknown && failures >= maxUnknown-maxAtOnce {
			return nil, err
		}
		if kind == cqrs.KindUnavailable || attempt >= maxAtOnce && kind != cqrs.KindConflict || attempt >= maxConflicts || failures > 0 ||
			kind == cqrs.KindTransient && time.Since(began) > maxBlocking {
			pause := backoff(failures + 4)
			o.Log.Warn("retry scheduled", "consumer", m.Key.Consumer, "message_id", shownID(msg), "error", err, "kind", kind.String(), "attempt", failures+1, "delay", pause)
			later := queue.RetryAfter(msg.Context(), m, pause)
			if later == nil {
				o.OnFailure(m.Key.Consumer, "delayed")
				return nil, errKept
			}
			err = later
		}
		o.OnFailure(m.Key.Consumer, "retried")
		o.Log.Warn("retrying", "consumer", m.Key.Consumer, "message_id", shownID(msg), "error", err, "kind", kind.String(), "attempt", attempt)
		if !o.wait(msg.Context(), backoff(attempt)) {
			return nil, fmt.Errorf("stopping: %w: %w", context.Canceled, err)
		}
	}
}

// maxConflicts is the number of attempts at once of a message with conflicts. Within each attempt, the unit of work has retried many times.
const maxConflicts = 5

// backoff returns a delay that grows from 50 ms to 10 s. Half of the delay is random, so that many messages are not retried at the same time.
func backoff(attempt int) time.Duration {
	d := min(50*time.Millisecond<<min(attempt-1, 12), 10*time.Second)
	return d/2 + rand.N(d/2+1) //nolint:gosec // chance, not secrecy
}

// wait waits for d. It returns false if the service stops or ctx is done first.
func (o Options) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-o.Stopping:
		return false
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
