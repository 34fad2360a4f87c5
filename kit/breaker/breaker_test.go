package breaker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/breaker"
	"github.com/millrace/millrace/kit/cqrs"
)

var (
	errDown    = errors.New("down")
	errRefused = errors.New("refused")
)

func newBreaker(o breaker.Options) *breaker.Breaker {
	o.Failed = func(err error) bool { return errors.Is(err, errDown) }
	settings := breaker.Default("payments")
	settings.Timeout = 100 * time.Millisecond
	return breaker.New(settings, o)
}

func open(t *testing.T, b *breaker.Breaker) {
	t.Helper()
	for range 10 {
		require.ErrorIs(t, b.Do(func() error { return errDown }), errDown)
	}
	require.Equal(t, "open", b.Snapshot().State)
}

func TestRefusalsAreNoFailures(t *testing.T) {
	b := newBreaker(breaker.Options{})
	for range 100 {
		require.ErrorIs(t, b.Do(func() error { return errRefused }), errRefused)
		require.ErrorIs(t, b.Do(func() error { return context.Canceled }), context.Canceled)
	}
	s := b.Snapshot()
	require.Equal(t, "closed", s.State)
	require.Equal(t, 200, s.Requests)
	require.Zero(t, s.Failures)
	require.True(t, s.OpenedAt.IsZero())
}

func TestItOpensByRatio(t *testing.T) {
	b := newBreaker(breaker.Options{})
	for range 30 { // a third of the requests failed
		_ = b.Do(func() error { return nil })
		_ = b.Do(func() error { return nil })
		_ = b.Do(func() error { return errDown })
	}
	require.Equal(t, "closed", b.Snapshot().State)
	for range 31 { // half of the requests failed
		_ = b.Do(func() error { return errDown })
	}
	require.Equal(t, "open", b.Snapshot().State)
	require.True(t, breaker.IsOpen(b.Do(func() error { return nil })))
}

// While the breaker is open, a message waits. It is handled when the destination is available again, and is neither failed nor dropped.
func TestMiddlewareWaitsWhileOpen(t *testing.T) {
	var changes []string
	b := newBreaker(breaker.Options{OnChange: func(_, from, to string) { changes = append(changes, from+" to "+to) }})
	open(t, b)
	var calls atomic.Int32
	handle := b.Middleware(func(*message.Message) ([]*message.Message, error) { calls.Add(1); return nil, nil })
	began := time.Now()
	_, err := handle(message.NewMessage("m", nil))
	require.NoError(t, err)
	require.Equal(t, int32(1), calls.Load())
	require.GreaterOrEqual(t, time.Since(began), 90*time.Millisecond)
	for range 2 {
		_, err := handle(message.NewMessage("m", nil))
		require.NoError(t, err)
	}
	require.Equal(t, "closed", b.Snapshot().State)
	require.False(t, b.Snapshot().OpenedAt.IsZero())
	require.Equal(t, []string{"closed to open", "open to half-open", "half-open to closed"}, changes)
}

func TestMiddlewareGivesUpWhenStopping(t *testing.T) {
	stopping := make(chan struct{})
	b := newBreaker(breaker.Options{Stopping: stopping})
	open(t, b)
	close(stopping)
	_, err := b.Middleware(func(*message.Message) ([]*message.Message, error) { panic("not called") })(message.NewMessage("m", nil))
	require.ErrorIs(t, err, context.Canceled, "so that the message is nacked, and no dead letter")
}

// A breaker counts only the failures of its destination. Messages that are refused, hostile, too large, panicking or cancelled do not open it for the
// other messages, whatever their share is.
func TestBreakerIgnoresBadElements(t *testing.T) {
	for name, bad := range map[string]func() error{
		"refused":   func() error { return errRefused },
		"hostile":   func() error { return cqrs.CheckText("payment_method", "a\xffb", cqrs.MaxKey) },
		"too large": func() error { return cqrs.CheckText("payment_method", string(make([]byte, 6000)), cqrs.MaxKey) },
		"rejected":  func() error { return cqrs.ErrRejected },
		"panicking": func() error { panic("out of range") },
		"cancelled": func() error { return context.Canceled },
	} {
		t.Run(name, func(t *testing.T) {
			b := breaker.New(breaker.Default("payments"), breaker.Options{Failed: func(err error) bool { return cqrs.KindOf(err) == cqrs.KindUnavailable }})
			for range 50 {
				err := cqrs.Protect(func() error { return b.Do(bad) })
				require.Error(t, err)
				require.False(t, breaker.IsOpen(err), "%v", err)
				require.NoError(t, b.Do(func() error { return nil }))
			}
			require.Equal(t, "closed", b.Snapshot().State)
			require.Zero(t, b.Snapshot().Failures)
		})
	}
}

// A panic is passed on with its own stack.
func TestBreakerPassesAPanicOn(t *testing.T) {
	err := cqrs.Protect(func() error {
		return newBreaker(breaker.Options{}).Do(func() error { panic("out of range") })
	})
	var panicked *cqrs.PanicError
	require.ErrorAs(t, err, &panicked)
	require.Contains(t, panicked.Stack, "TestBreakerPassesAPanicOn.func1.1")
}
