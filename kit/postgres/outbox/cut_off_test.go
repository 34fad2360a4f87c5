package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// pair is two relays that lose their way to the broker as the test says.
type pair struct {
	t      *testing.T
	db     *sqlx.DB
	away   [2]atomic.Bool
	relays [2]*outbox.Relay
}

func newPair(t *testing.T) *pair {
	t.Helper()
	db, dsn := kittest.Database(t)
	p := &pair{t: t, db: db}
	for n := range p.relays {
		reach := func() error {
			if p.away[n].Load() {
				return errors.New("no route to the broker")
			}
			return nil
		}
		p.relays[n], _ = run(t, db, dsn, &log{fail: func(string, string) error { return reach() }}, outbox.Options{Ping: func(context.Context) error { return reach() }})
	}
	p.hold(outbox.Shards/2, outbox.Shards/2)
	return p
}

func (p *pair) held() [2]int { return [2]int{p.relays[0].Held(), p.relays[1].Held()} }

// hold waits until they hold so many shards.
func (p *pair) hold(first, second int) {
	p.t.Helper()
	kittest.Eventually(p.t, func() error {
		if h := p.held(); h != [2]int{first, second} {
			return fmt.Errorf("they hold %v", h)
		}
		return nil
	})
}

// keep fails the test if they do not hold so many shards for a time.
func (p *pair) keep(first, second int, d time.Duration) {
	p.t.Helper()
	require.Never(p.t, func() bool { return p.held() != [2]int{first, second} }, d, 20*time.Millisecond)
}

func (p *pair) send() {
	p.t.Helper()
	for k := range 40 {
		write(p.t, p.db, "t", item{key: fmt.Sprint(k), text: "x"})
	}
}

// A relay that alone does not reach the broker leaves its shards to the others, and has its part again when it does, or when the others do not either.
func TestRelayThatIsCutOffLeavesItsShards(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.away[0].Store(true)
	p.send()
	drained(t, p.db)
	p.hold(0, outbox.Shards)
	p.send()
	drained(t, p.db)
	p.away[1].Store(true)
	p.send()
	p.hold(outbox.Shards/2, outbox.Shards/2)
	p.away[0].Store(false)
	drained(t, p.db)
	p.hold(outbox.Shards, 0)
}

// While nobody reaches the broker, and when it comes back, all keep what they have.
func TestOutageMovesNoShards(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.away[0].Store(true)
	p.away[1].Store(true)
	p.send()
	p.keep(outbox.Shards/2, outbox.Shards/2, 12*time.Second)
	p.away[0].Store(false)
	p.away[1].Store(false)
	p.keep(outbox.Shards/2, outbox.Shards/2, 4*time.Second)
	drained(t, p.db)
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
