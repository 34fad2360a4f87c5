package outbox

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A ping ends with the session of its relay, and is then no reason to count as cut off.
func TestPingEndsWithItsSession(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	c := &brokerCheck{
		failing:  func() time.Duration { return time.Minute },
		cutOff:   func() { t.Error("it counts as cut off") },
		restored: func() { t.Error("the broker has not answered") },
		ping: func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		},
	}
	session, stop := context.WithCancel(t.Context())
	c.update(session, true, true)
	<-started
	stop()
	select {
	case <-ended:
	case <-time.After(pingTimeout - time.Second):
		t.Fatal("the ping outlives the session")
	}
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !c.pinging && c.failedSince.IsZero()
	}, time.Second, time.Millisecond)
}
