package keyordered

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type unmarshaler struct{}

func (unmarshaler) Unmarshal(r *sarama.ConsumerMessage) (*message.Message, error) {
	msg := message.NewMessage(fmt.Sprint(r.Offset), r.Value)
	msg.Metadata["key"] = string(r.Key)
	return msg, nil
}

// link is the link of a record in the model: it points to the previous record of the key.
type link struct{ before *link }

// model checks the invariants with simple rules.
type model struct {
	mu     sync.Mutex
	run    int
	begun  map[string]int64          // the highest offset of each key that has started
	open   map[string]map[int64]bool // offsets of each key that have started and are not acknowledged
	links  map[*link]int64
	acked  sync.Map // acknowledged offsets; not under mu, because a partition marks under its own lock, and a test claims its keys under mu
	marked int64
	most   int
	inHand int
	faults []string

	mayBegin func(key string, offset int64) bool // nil: any record may start
}

func newModel(run int) *model {
	return &model{run: run, begun: map[string]int64{}, open: map[string]map[int64]bool{}, links: map[*link]int64{}}
}

// config adds the links that the model checks to a configuration.
func (m *model) config(t require.TestingT, c Config) Config {
	c.Brokers, c.Group, c.Sarama, c.Logger = []string{"none"}, "g", sarama.NewConfig(), watermill.NopLogger{}
	c.NackPause, c.Run = 10*time.Microsecond, m.run
	c.Link = func(before any) (any, func()) {
		b, _ := before.(*link)
		return &link{before: b}, func() {}
	}
	c.WithLink = func(ctx context.Context, l any) context.Context { return context.WithValue(ctx, "link", l) } //nolint:staticcheck // of this test
	require.NoError(t, c.complete())
	return c
}

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func (m *model) begins(l *link, key string, offset int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inHand++
	m.most = max(m.most, m.inHand)
	if key == "skip" {
		m.fault("%d was delivered", offset)
	}
	if key == "" {
		return
	}
	if m.mayBegin != nil && !m.mayBegin(key, offset) {
		m.fault("%d of %s began while the key was claimed", offset, key)
	}
	m.links[l] = offset
	if before, known := m.links[l.before]; known && before >= offset {
		m.fault("%d of %s was linked after %d", offset, key, before)
	}
	for other := range m.open[key] {
		if other < offset && l.before == nil {
			m.fault("%d of %s was linked after none, but %d is in flight", offset, key, other)
		}
	}
	if m.open[key] == nil {
		m.open[key] = map[int64]bool{}
	}
	m.open[key][offset] = true
	if len(m.open[key]) > m.run {
		m.fault("%d of %s are in flight", len(m.open[key]), key)
	}
	if m.run == 1 && offset < m.begun[key] {
		m.fault("%d of %s began after %d", offset, key, m.begun[key])
	}
	m.begun[key] = max(m.begun[key], offset)
}

func (m *model) ends(key string, offset int64, acked bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inHand--
	if acked {
		m.acked.Store(offset, true)
		delete(m.open[key], offset)
	}
}

func (m *model) isAcked(offset int64) bool {
	_, acked := m.acked.Load(offset)
	return acked
}

func (m *model) marks(next int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if next <= m.marked {
		m.fault("marked %d after %d", next, m.marked)
	}
	for offset := m.marked; offset < next; offset++ {
		if offset%3 != 0 && !m.isAcked(offset) { // every third offset is missing from the log, as after a compaction
			m.fault("marked %d, but %d was not acknowledged", next, offset)
		}
	}
	m.marked = next
}

// Whatever the order in which records are acknowledged, nacked or skipped: at most Run records of a key are in flight, linked in order; no more are
// in flight than the limits allow; and no offset is marked before the records below it are acknowledged or skipped.
func TestPartitionFollowsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		records := rapid.IntRange(1, 120).Draw(rt, "records")
		keys := rapid.IntRange(0, 6).Draw(rt, "keys")
		limit := rapid.IntRange(1, 20).Draw(rt, "in flight")
		ahead := rapid.IntRange(limit, 40).Draw(rt, "ahead")
		bytes := rapid.IntRange(50, 3000).Draw(rt, "bytes")
		nacks := rapid.IntRange(0, 5).Draw(rt, "nacks of ten")
		run := rapid.IntRange(1, 4).Draw(rt, "run")
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		m := newModel(run)
		skipped := rapid.IntRange(0, 10).Draw(rt, "skipped of ten")
		config := m.config(rt, Config{
			Unmarshaler: unmarshaler{}, MaxInFlight: limit, MaxAhead: ahead,
			Skip: func(r *sarama.ConsumerMessage) bool { return string(r.Key) == "skip" },
		})
		stop, end := context.WithCancel(context.Background())
		base, lose := context.WithCancel(context.Background())
		out := make(chan *message.Message)
		p := newPartition(config, "t", stop, base, out, newBudget(bytes), m.marks)
		var chanceMu sync.Mutex
		roll := func(n int) int {
			chanceMu.Lock()
			defer chanceMu.Unlock()
			return chance.IntN(n)
		}
		last := int64(0)
		var handling sync.WaitGroup
		handling.Go(func() {
			for msg := range out {
				handling.Go(func() {
					var offset int64
					_, _ = fmt.Sscan(msg.UUID, &offset)
					key := msg.Metadata["key"]
					m.begins(msg.Context().Value("link").(*link), key, offset)
					time.Sleep(time.Duration(roll(200)) * time.Microsecond)
					if roll(10) < nacks {
						m.ends(key, offset, false)
						msg.Nack()
						return
					}
					m.ends(key, offset, true)
					msg.Ack()
				})
			}
		})
		for n := range records {
			offset := int64(n + n/2 + 1) // 1 2 4 5 7 8 …
			key := ""
			if keys > 0 {
				key = fmt.Sprint("k", roll(keys))
			}
			if roll(10) < skipped {
				key = "skip"
				m.acked.Store(offset, true)
			}
			if !p.admit(&sarama.ConsumerMessage{Offset: offset, Key: []byte(key), Value: make([]byte, roll(100))}) {
				rt.Fatal("it has stopped")
			}
			last = offset
		}
		p.drain(10*time.Second, func() {})
		end()
		lose()
		close(out)
		handling.Wait()
		if len(m.faults) > 0 {
			rt.Fatal(m.faults)
		}
		if m.marked != last+1 {
			rt.Fatalf("marked %d of %d", m.marked, last+1)
		}
		if m.most > limit {
			rt.Fatalf("%d in flight, at most %d", m.most, limit)
		}
		if len(p.keys) > 0 || len(p.window) > 0 || p.bytes.left != bytes {
			rt.Fatalf("left behind: %d keys, %d records, %d bytes", len(p.keys), len(p.window), bytes-p.bytes.left)
		}
	})
}

// A partition that is revoked marks no more offsets and starts no more records.
func TestLostPartitionCommitsNoOffset(t *testing.T) {
	config := Config{Brokers: []string{"none"}, Group: "g", Sarama: sarama.NewConfig(), Unmarshaler: unmarshaler{}}
	require.NoError(t, config.complete())
	stop, end := context.WithCancel(context.Background())
	base, lose := context.WithCancel(context.Background())
	out := make(chan *message.Message)
	marks := 0
	p := newPartition(config, "t", stop, base, out, newBudget(1000), func(int64) { marks++ })
	for n := range 3 {
		require.True(t, p.admit(&sarama.ConsumerMessage{Offset: int64(n), Key: []byte("k")}))
	}
	first := <-out
	end()
	drained := make(chan struct{})
	go func() { defer close(drained); p.drain(20*time.Millisecond, lose) }()
	<-first.Context().Done() // the handler took too long
	<-drained
	first.Ack()
	select {
	case msg := <-out:
		t.Fatalf("%s was handed out", msg.UUID)
	case <-time.After(50 * time.Millisecond):
	}
	p.running.Wait()
	require.Zero(t, marks)
	require.False(t, p.admit(&sarama.ConsumerMessage{Offset: 9, Value: make([]byte, 2000)}) && p.stop.Err() == nil)
}

func TestConfigIsChecked(t *testing.T) {
	_, err := NewSubscriber(Config{Group: "g"})
	require.ErrorContains(t, err, "no brokers")
	_, err = NewSubscriber(Config{Brokers: []string{"b"}})
	require.ErrorContains(t, err, "no group")
	s, err := NewSubscriber(Config{Brokers: []string{"b"}, Group: "g"})
	require.NoError(t, err)
	require.Equal(t, sarama.OffsetOldest, s.config.Sarama.Consumer.Offsets.Initial, "a new group skips no message")
	require.Equal(t, sarama.ReadCommitted, s.config.Sarama.Consumer.IsolationLevel)
	require.Less(t, s.config.Grace, s.config.Sarama.Consumer.Group.Rebalance.Timeout)
	require.NotNil(t, s.config.Unmarshaler)
}

// A broker that is unavailable is retried again and again. The failure is logged once in a while, not each time.
func TestUnavailableBrokerIsLoggedOnce(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	var dialled atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			_ = conn.Close()
		}
	}()
	client := sarama.NewConfig()
	client.Metadata.Retry.Max = 0
	logger := watermill.NewCaptureLogger()
	s, err := NewSubscriber(Config{Brokers: []string{listener.Addr().String()}, Group: "g", Sarama: client, Unmarshaler: unmarshaler{}, Logger: logger})
	require.NoError(t, err)
	_, err = s.Subscribe(t.Context(), "t")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return dialled.Load() > 0 }, 10*time.Second, 10*time.Millisecond)
	before := dialled.Load()
	time.Sleep(5 * retryEvery / 2)
	require.Greater(t, dialled.Load(), before, "it is tried again")
	require.NoError(t, s.Close())
	require.Len(t, logger.Captured()[watermill.ErrorLogLevel], 1)
}

// A record for which the Skip function panics is delivered.
func TestPanicOfSkipDelivers(t *testing.T) {
	config := Config{Brokers: []string{"none"}, Group: "g", Sarama: sarama.NewConfig(), Unmarshaler: unmarshaler{}, Skip: func(*sarama.ConsumerMessage) bool { panic("skip") }}
	require.NoError(t, config.complete())
	out := make(chan *message.Message)
	p := newPartition(config, "t", context.Background(), context.Background(), out, newBudget(1000), func(int64) {})
	require.True(t, p.admit(&sarama.ConsumerMessage{Offset: 7, Key: []byte("k")}))
	msg := <-out
	require.Equal(t, "7", msg.UUID)
	msg.Ack()
}
