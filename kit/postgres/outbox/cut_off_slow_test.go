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

// slow is a sender whose sends take a while.
type slow struct {
	*log
	takes *atomic.Int64 // ns
}

func (s slow) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(s.takes.Load())):
	}
	return outbox.PublisherSender(s.log)().Send(ctx, topics, messages)
}

// A relay whose sends are slow reaches the broker: a relay that is cut off gives it its shards, and does not take them back.
func TestSlowRelayReplacesOneThatIsCutOff(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var away atomic.Bool
	var takes atomic.Int64
	reach := func() error {
		if away.Load() {
			return errors.New("no route to the broker")
		}
		return nil
	}
	first, _ := run(t, db, dsn, &log{fail: func(string, string) error { return reach() }}, outbox.Options{Ping: func(context.Context) error { return reach() }})
	second, _ := runSenders(t, db, dsn, func() outbox.Sender { return slow{&log{}, &takes} }, outbox.Options{})
	kittest.Eventually(t, func() error {
		if a, b := first.Held(), second.Held(); a != outbox.Shards/2 || b != outbox.Shards/2 {
			return fmt.Errorf("they hold %d and %d", a, b)
		}
		return nil
	})
	feed := func() {
		for k := range 40 {
			write(t, db, "t", item{key: fmt.Sprint(k), text: "x"})
		}
	}
	takes.Store(int64(3 * time.Second))
	away.Store(true)
	kittest.Eventually(t, func() error {
		feed()
		if held := first.Held(); held > 0 {
			return fmt.Errorf("the relay that is cut off holds %d shards", held)
		}
		return nil
	})
	for range 120 { // 12 s
		feed()
		require.Zero(t, first.Held(), "it takes shards back, and is still cut off")
		time.Sleep(100 * time.Millisecond)
	}
}

// After an outage a relay without shards has nothing to send, by which it could find out that the broker answers again. It replaces the other relay all the same when that
// one alone is cut off later.
func TestStandbyKnowsThatAnOutageIsOver(t *testing.T) {
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
		relays[n], _ = run(t, db, dsn, &log{fail: func(string, string) error { return reach() }}, outbox.Options{
			Host: "h", Since: time.Now().Add(time.Duration(n-5) * time.Minute), Ping: func(context.Context) error { return reach() },
		})
	}
	all := func(n int) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if !relays[n].HoldsAll() {
				return fmt.Errorf("they hold %d and %d", relays[0].Held(), relays[1].Held())
			}
			return nil
		})
	}
	all(0)
	away[0].Store(true)
	write(t, db, "t", item{key: "k", text: "x"})
	all(1)
	drained(t, db)
	away[1].Store(true) // the broker is away for both
	write(t, db, "t", item{key: "k", text: "x"})
	all(0)
	away[0].Store(false)
	away[1].Store(false)
	drained(t, db)
	time.Sleep(3 * time.Second)
	away[0].Store(true)
	write(t, db, "t", item{key: "k", text: "x"})
	all(1)
	drained(t, db)
}

// returning is a sender whose sends hang while it is away, and succeed when it is back.
type returning struct {
	*log
	away *atomic.Bool
}

func (r returning) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	for r.away.Load() && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	return outbox.PublisherSender(r.log)().Send(ctx, topics, messages)
}

// A ping that started in an outage and fails after it cuts no relay off whose sends succeed again.
func TestLatePingCutsNoRelayOff(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	var away atomic.Bool
	began := make(chan struct{}, 10)
	var hung atomic.Int64
	first, _ := runSenders(t, db, dsn, func() outbox.Sender { return returning{&log{}, &away} }, outbox.Options{Ping: func(ctx context.Context) error {
		if away.Load() && hung.Add(1) == 1 {
			began <- struct{}{}
			<-ctx.Done() // its packet was lost
		}
		return ctx.Err()
	}})
	second, _ := run(t, db, dsn, &log{}, outbox.Options{})
	kittest.Eventually(t, func() error {
		if a, b := first.Held(), second.Held(); a != outbox.Shards/2 || b != outbox.Shards/2 {
			return fmt.Errorf("they hold %d and %d", a, b)
		}
		return nil
	})
	away.Store(true)
	for k := range 40 {
		write(t, db, "t", item{key: fmt.Sprint(k), text: "x"})
	}
	<-began
	time.Sleep(4 * time.Second)
	away.Store(false)
	drained(t, db)
	require.Never(t, func() bool { return first.Held() == 0 }, 6*time.Second, 5*time.Millisecond)
}
