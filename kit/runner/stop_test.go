package runner

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// subscribing is a subscriber whose Subscribe blocks.
type subscribing struct{ begun, goOn chan struct{} }

func (s subscribing) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	close(s.begun)
	<-s.goOn
	messages := make(chan *message.Message)
	context.AfterFunc(ctx, func() { close(messages) })
	return messages, nil
}

func (s subscribing) Close() error { return nil }

func newRouter(t *testing.T) (router *message.Router, s subscribing, done chan struct{}) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Second}, watermill.NopLogger{})
	require.NoError(t, err)
	s = subscribing{make(chan struct{}), make(chan struct{})}
	router.AddConsumerHandler("handler", "topic", s, func(*message.Message) error { return nil })
	done = make(chan struct{})
	go func() {
		defer close(done)
		_ = router.Run(context.Background())
	}()
	<-s.begun // Run was called, and IsRunning is false
	return router, s, done
}

// A service stops while its router subscribes. Stop used to hang because Close was skipped between Run and IsRunning.
func TestStopWhileTheRouterSubscribes(t *testing.T) {
	router, s, done := newRouter(t)
	stopped := make(chan error, 1)
	go func() { stopped <- closeRouter(t.Context(), router, done) }()
	close(s.goOn)
	require.NoError(t, <-stopped)
	require.True(t, router.IsClosed())
	<-done
}

func TestStopOfTheRouterIsBoundedByItsContext(t *testing.T) {
	router, s, done := newRouter(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, closeRouter(ctx, router, done), context.DeadlineExceeded)
	close(s.goOn)
}

// Stop returns and stops the other parts even if a part hangs or panics.
func TestStopIsBoundedByItsContext(t *testing.T) {
	s := &Instance{stopping: make(chan struct{})}
	var order []string
	hangs := make(chan struct{})
	defer close(hangs)
	failure := errors.New("cannot close")
	s.onStop(func(context.Context) error { order = append(order, "first"); return failure })
	s.onStop(func(context.Context) error { <-hangs; return nil })
	s.onStop(func(context.Context) error { panic("out of range") })
	s.onStop(func(context.Context) error { order = append(order, "last"); return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := s.Stop(ctx)
	require.ErrorContains(t, err, "TestStopIsBoundedByItsContext.func2 did not end in time")
	require.ErrorContains(t, err, "panic: out of range")
	require.ErrorIs(t, err, failure)
	require.Equal(t, []string{"last", "first"}, order)
	require.Equal(t, err, s.Stop(ctx))
}
