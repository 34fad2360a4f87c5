package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// sentLog is a broker that several relays send to. It keeps the versions of each stream's events in the order in which they came, and
// fails now and then.
type sentLog struct {
	mu       sync.Mutex
	versions map[string][]string // by stream
}

func (l *sentLog) Close() error { return nil }

func (l *sentLog) Publish(_ string, messages ...*message.Message) error {
	if rand.IntN(20) == 0 {
		time.Sleep(rand.N(50 * time.Millisecond))
	}
	if rand.IntN(200) == 0 {
		return errors.New("passes")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, msg := range messages {
		stream := msg.Metadata[cqrs.HeaderKey]
		l.versions[stream] = append(l.versions[stream], string(msg.Payload))
	}
	return nil
}

// startRelays starts a relay for each instance, and takes leases away from them at random until stop is called. Stop returns when everything
// was relayed and the relays hold all shards again; it returns how many leases were lost.
func startRelays(t *testing.T, dsn string, l *sentLog, instances []*environment) (stop func() (lost int64)) {
	t.Helper()
	var relays []*outbox.Relay
	var running, chaos sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for _, w := range instances {
		relay := outbox.NewRelay(w.db, outbox.PublisherSender(l), slog.New(slog.DiscardHandler), outbox.Options{
			DSN: dsn, Batch: 20, Refused: func(error) bool { return false },
		})
		w.uow.Committing = relay.Committing
		w.uow.OnCommit = func(_ []cqrs.Event, messages []*outbox.Message) { relay.Offer(messages) }
		relays = append(relays, relay)
		running.Go(func() { relay.Run(ctx) })
	}
	var lost int64
	lossCtx, end := context.WithCancel(ctx)
	chaos.Go(func() {
		for lossCtx.Err() == nil {
			result, err := instances[0].db.Exec(`UPDATE relay_leases SET owner = 'nobody', expires_at = app_now() + '100 ms' WHERE shard = $1 AND owner <> 'nobody'`,
				outbox.ShardOf("events", fmt.Sprint("inventory/", rand.IntN(1000))))
			if err != nil {
				t.Error(err)
				return
			}
			n, _ := result.RowsAffected() // the driver knows it
			lost += n
			time.Sleep(rand.N(400 * time.Millisecond))
		}
	})
	return func() int64 {
		end()
		chaos.Wait()
		_, err := instances[0].db.Exec(`UPDATE relay_leases SET owner = NULL, expires_at = '-infinity'`) // all are lost, and none needs to expire
		require.NoError(t, err)
		kittest.Eventually(t, func() error {
			held, left := 0, instances[0].count(t, `SELECT count(*) FROM outbox`)
			for _, relay := range relays {
				held += relay.Held()
			}
			if left > 0 || held != outbox.Shards {
				return fmt.Errorf("%d messages wait, %d shards are held", left, held)
			}
			return nil
		})
		return lost
	}
}

// requireAll checks that all events of each stream came, each for the first time after those before it. It returns how many came again.
func (l *sentLog) requireAll(t *testing.T, w *environment) (again int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var streams []struct {
		Stream string
		N      int
	}
	require.NoError(t, w.db.Select(&streams, `SELECT stream, count(*) AS n FROM events GROUP BY stream`))
	for _, s := range streams {
		last := 0
		for _, text := range l.versions[s.Stream] {
			var version int
			_, err := fmt.Sscan(text, &version)
			require.NoError(t, err)
			require.LessOrEqual(t, version, last+1, "%s: %v", s.Stream, l.versions[s.Stream])
			last = max(last, version)
		}
		require.Equal(t, s.N, last, "%s lacks messages", s.Stream)
		again += len(l.versions[s.Stream]) - s.N
	}
	return again
}
