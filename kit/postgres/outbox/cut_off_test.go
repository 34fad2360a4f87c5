package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// A relay that alone does not reach the broker leaves its shards to the others, and has its part again when it does. While nobody reaches the broker, all keep
// what they have.
func TestRelayThatIsCutOffLeavesItsShards(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var away [2]atomic.Bool
	var relays [2]*outbox.Relay
	for n := range relays {
		reach := func() error {
			if away[n].Load() {
				return errors.New("no route to the broker")
			}
			return nil
		}
		relays[n], _ = run(t, db, dsn, &log{fail: func(string, string) error { return reach() }}, outbox.Options{Ping: func(context.Context) error { return reach() }})
	}
	held := func() [2]int { return [2]int{relays[0].Held(), relays[1].Held()} }
	hold := func(first, second int) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if h := held(); h != [2]int{first, second} {
				return fmt.Errorf("they hold %v", h)
			}
			return nil
		})
	}
	send := func() {
		t.Helper()
		for k := range 40 {
			write(t, db, "t", item{key: fmt.Sprint(k), text: "x"})
		}
	}
	const half = outbox.Shards / 2
	hold(half, half)

	away[0].Store(true)
	send()
	drained(t, db)
	hold(0, outbox.Shards)
	send()
	drained(t, db)

	away[1].Store(true) // who was cut off has a part again, for what it can hand over
	send()
	hold(half, half)
	require.Never(t, func() bool { return held() != [2]int{half, half} }, 8*time.Second, 20*time.Millisecond)
	away[0].Store(false)
	drained(t, db)
	hold(outbox.Shards, 0)
	away[1].Store(false)
	hold(half, half)

	away[0].Store(true) // an outage for all
	away[1].Store(true)
	send()
	require.Never(t, func() bool { return held() != [2]int{half, half} }, 8*time.Second, 20*time.Millisecond)
	away[0].Store(false)
	away[1].Store(false)
	require.Never(t, func() bool { return held() != [2]int{half, half} }, 3*time.Second, 20*time.Millisecond)
	drained(t, db)
}

// A relay that stands by works when the one of its host that works is cut off.
func TestRelayThatStandsByReplacesOneThatIsCutOff(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var away atomic.Bool
	reach := func() error {
		if away.Load() {
			return errors.New("no route to the broker")
		}
		return nil
	}
	first, _ := run(t, db, dsn, &log{fail: func(string, string) error { return reach() }}, outbox.Options{
		Host: "h", Since: time.Now().Add(-time.Minute), Ping: func(context.Context) error { return reach() },
	})
	second, _ := run(t, db, dsn, &log{}, outbox.Options{Host: "h", Since: time.Now()})
	all := func(r *outbox.Relay) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if !r.HoldsAll() {
				return fmt.Errorf("they hold %d and %d", first.Held(), second.Held())
			}
			return nil
		})
	}
	all(first)
	away.Store(true)
	write(t, db, "t", item{key: "k", text: "x"})
	all(second)
	drained(t, db)
	away.Store(false)
	all(first)
}

// hanging is a sender that does not answer while it is away.
type hanging struct {
	*log
	away *atomic.Bool
}

func (h hanging) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	if h.away.Load() {
		<-ctx.Done()
		errs := make([]error, len(messages))
		for i := range errs {
			errs[i] = context.Cause(ctx)
		}
		return errs
	}
	return outbox.PublisherSender(h.log)().Send(ctx, topics, messages)
}

// A send that hangs keeps no shards.
func TestRelayWhoseSendsHangLeavesItsShards(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var away atomic.Bool
	first, _ := runSenders(t, db, dsn, func() outbox.Sender { return hanging{&log{}, &away} }, outbox.Options{Ping: func(ctx context.Context) error {
		if away.Load() {
			<-ctx.Done()
		}
		return ctx.Err()
	}})
	second, _ := run(t, db, dsn, &log{}, outbox.Options{})
	hold := func(n, m int) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if a, b := first.Held(), second.Held(); a != n || b != m {
				return fmt.Errorf("they hold %d and %d", a, b)
			}
			return nil
		})
	}
	hold(outbox.Shards/2, outbox.Shards/2)
	away.Store(true)
	for k := range 40 {
		write(t, db, "t", item{key: fmt.Sprint(k), text: "x"})
	}
	drained(t, db)
	hold(0, outbox.Shards)
	require.Never(t, func() bool { return first.Held() > 0 }, 8*time.Second, 20*time.Millisecond)
	away.Store(false)
	hold(outbox.Shards/2, outbox.Shards/2)
}
