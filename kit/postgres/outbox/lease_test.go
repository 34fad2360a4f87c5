package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// sharedLog is a broker that several relays send to. It notes when two relays send messages of one shard at the same time.
type sharedLog struct {
	mu       sync.Mutex
	sending  map[int16]map[string]int // by shard, how many sends of each relay are under way
	overlaps []string
	records  map[string][]string // by key
	delay    func() time.Duration
}

// as is the publisher of one relay.
func (l *sharedLog) as(relay string) message.Publisher { return relayPublisher{l, relay} }

type relayPublisher struct {
	*sharedLog
	relay string
}

func (p relayPublisher) Close() error { return nil }

func (p relayPublisher) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		key := msg.Metadata[cqrs.HeaderKey]
		shard := outbox.ShardOf(topic, key)
		p.mu.Lock()
		if p.sending == nil {
			p.sending, p.records = map[int16]map[string]int{}, map[string][]string{}
		}
		if p.sending[shard] == nil {
			p.sending[shard] = map[string]int{}
		}
		p.sending[shard][p.relay]++
		for other, n := range p.sending[shard] {
			if other != p.relay && n > 0 {
				p.overlaps = append(p.overlaps, fmt.Sprintf("shard %d: %s and %s", shard, p.relay, other))
			}
		}
		p.mu.Unlock()
		time.Sleep(p.delay())
		p.mu.Lock()
		p.sending[shard][p.relay]--
		p.records[key] = append(p.records[key], string(msg.Payload))
		p.mu.Unlock()
	}
	return nil
}

// requireOrder checks that each key has all its messages, and that each came for the first time after those before it.
func (l *sharedLog) requireOrder(t *testing.T, keys []string, each int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		next := 0
		for _, text := range l.records[key] {
			var n int
			_, err := fmt.Sscan(text, &n)
			require.NoError(t, err)
			require.LessOrEqual(t, n, next, "key %s: %v", key, l.records[key])
			next = max(next, n+1)
		}
		require.Equal(t, each, next, "key %s lacks messages", key)
	}
}

func writeKeys(t *testing.T, db *sqlx.DB, keys []string, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		var items []item
		for _, key := range keys {
			items = append(items, item{key: key, text: fmt.Sprint(n)})
		}
		write(t, db, "t", items...)
	}
}

func keyNames(n int) (keys []string) {
	for k := range n {
		keys = append(keys, fmt.Sprint("key-", k))
	}
	return keys
}

// A send takes longer than a lease lasts. The heartbeat goes on meanwhile, so no other relay takes the shard over, and the relay that came
// later gets its share when the sends have ended.
func TestSlowBrokerKeepsLeases(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	l := &sharedLog{delay: func() time.Duration { return 8 * time.Second }}
	keys := keyNames(40)
	writeKeys(t, db, keys, 0, 2)
	first, _ := run(t, db, dsn, l.as("first"), outbox.Options{})
	kittest.Eventually(t, func() error {
		if !first.HoldsAll() {
			return fmt.Errorf("it holds %d shards", first.Held())
		}
		return nil
	})
	second, _ := run(t, db, dsn, l.as("second"), outbox.Options{})
	kittest.Eventually(t, func() error {
		if n, m := first.Held(), second.Held(); n+m != outbox.Shards || m == 0 {
			return fmt.Errorf("they hold %d and %d", n, m)
		}
		return nil
	})
	writeKeys(t, db, keys, 2, 3)
	drained(t, db)
	require.Empty(t, l.overlaps, "two relays sent one shard")
	l.requireOrder(t, keys, 3)
	for _, key := range keys {
		require.Len(t, l.records[key], 3, "no lease was lost, so nothing came twice")
	}
}

// A relay that cannot reach the database stops sending before its leases expire, and another one takes over: no shard is sent by two.
func TestLostLeaseFencesSends(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	address, cut := proxy(t, dsn)
	behindProxy, err := url.Parse(dsn)
	require.NoError(t, err)
	behindProxy.Host = address
	l := &sharedLog{delay: func() time.Duration { return 50 * time.Millisecond }}
	keys := keyNames(40)
	first, _ := run(t, db, behindProxy.String(), l.as("first"), outbox.Options{Batch: 20}) // its heartbeat goes through the proxy, its work does not
	kittest.Eventually(t, func() error {
		if !first.HoldsAll() {
			return errors.New("it does not hold all shards yet")
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	n := 0
	writing.Go(func() {
		for ; ctx.Err() == nil; n++ {
			writeKeys(t, db, keys, n, n+1)
			time.Sleep(100 * time.Millisecond)
		}
	})
	cut()
	second, _ := run(t, db, dsn, l.as("second"), outbox.Options{Batch: 20})
	kittest.Eventually(t, func() error {
		if !second.HoldsAll() || first.Held() > 0 {
			return fmt.Errorf("they hold %d and %d", first.Held(), second.Held())
		}
		return nil
	})
	time.Sleep(time.Second)
	stop()
	writing.Wait()
	drained(t, db)
	require.Empty(t, l.overlaps, "two relays sent one shard")
	l.requireOrder(t, keys, n)
}

// proxy passes connections to the database on until cut is called; then it swallows what is sent.
func proxy(t *testing.T, dsn string) (address string, cut func()) {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	var isCut sync.Map
	pass := func(to, from net.Conn) {
		buffer := make([]byte, 16<<10)
		for {
			n, err := from.Read(buffer)
			if _, swallow := isCut.Load("cut"); err == nil && !swallow {
				_, err = to.Write(buffer[:n])
			}
			if err != nil {
				return
			}
		}
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = client.Close()
				continue
			}
			t.Cleanup(func() { _ = errors.Join(client.Close(), server.Close()) })
			go pass(server, client)
			go pass(client, server)
		}
	}()
	return listener.Addr().String(), func() { isCut.Store("cut", true) }
}

// Three relays come and go, lose leases and pause at random: nothing is lost, and each key keeps its order.
func TestRelaysKeepKeyOrderWhenLeasesAreLost(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	l := &sharedLog{delay: func() time.Duration {
		if rand.IntN(50) == 0 {
			return rand.N(300 * time.Millisecond)
		}
		return rand.N(3 * time.Millisecond)
	}}
	keys := keyNames(30)
	const each = 120
	ctx, stop := context.WithCancel(t.Context())
	var chaos sync.WaitGroup
	for r := range 3 {
		chaos.Go(func() {
			for ctx.Err() == nil {
				_, end := run(t, db, dsn, l.as(fmt.Sprint("relay ", r)), outbox.Options{Batch: 10, Poll: 20 * time.Millisecond})
				select {
				case <-ctx.Done():
				case <-time.After(2*time.Second + rand.N(6*time.Second)):
				}
				end()
			}
		})
	}
	chaos.Go(func() {
		for ctx.Err() == nil {
			_, err := db.Exec(`UPDATE relay_leases SET owner = 'nobody', expires_at = now() + '100 ms' WHERE shard = $1`, outbox.FirstShard+rand.IntN(outbox.Shards))
			if err != nil {
				t.Error(err)
			}
			time.Sleep(rand.N(1500 * time.Millisecond))
		}
	})
	for n := range each {
		writeKeys(t, db, keys, n, n+1)
		time.Sleep(rand.N(100 * time.Millisecond))
	}
	drained(t, db)
	stop()
	chaos.Wait()
	l.requireOrder(t, keys, each)
}
