package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/breaker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func TestMain(m *testing.M) { kittest.Main(m) }

type item struct {
	key, text string
	due       time.Time
}

// write puts messages into the outbox in one transaction.
func write(t *testing.T, db *sqlx.DB, topic string, items ...item) (written []*outbox.Message) {
	t.Helper()
	ctx, unit := txn.NewUnit(t.Context(), db)
	for _, i := range items {
		msg := message.NewMessage(uuid.NewString(), []byte(i.text))
		msg.Metadata[cqrs.HeaderKey] = i.key
		if !i.due.IsZero() {
			msg.Metadata[cqrs.HeaderDue] = i.due.Format(time.RFC3339Nano)
		}
		msg.SetContext(ctx)
		require.NoError(t, outbox.NewPublisher(100_000_000, kittest.Insert).Publish(topic, msg))
	}
	require.NoError(t, txn.Commit(t.Context(), db, []*txn.Unit{unit}))
	for i, w := range outbox.MessagesFromContext(ctx) {
		require.Positive(t, w.ID)
		require.Equal(t, items[i].text, string(w.Message.Payload))
	}
	return outbox.MessagesFromContext(ctx)
}

// run starts a relay that sends through a publisher, until stop is called or the test ends.
func run(t *testing.T, db *sqlx.DB, dsn string, publisher message.Publisher, o outbox.Options) (relay *outbox.Relay, stop func()) {
	t.Helper()
	return runSenders(t, db, dsn, outbox.PublisherSender(publisher), o)
}

// runKafka starts a relay that sends to Kafka, in records of at most limit bytes, until the test ends.
func runKafka(t *testing.T, db *sqlx.DB, dsn string, brokers []string, limit int, o outbox.Options) {
	t.Helper()
	runSenders(t, db, dsn, func() outbox.Sender {
		return kafka.NewProducer(kafka.Config{Brokers: brokers}, func() int { return limit }, time.Now)
	}, o)
}

func runSenders(t *testing.T, db *sqlx.DB, dsn string, senders func() outbox.Sender, o outbox.Options) (relay *outbox.Relay, stop func()) {
	t.Helper()
	o.DSN = dsn
	if o.Refused == nil {
		o.Refused = kafka.Refused
	}
	relay = outbox.NewRelay(db, senders, slog.New(slog.DiscardHandler), o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); relay.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return relay, stop
}

func drained(t *testing.T, db *sqlx.DB) {
	t.Helper()
	kittest.Eventually(t, func() error {
		b, err := outbox.LoadBacklog(t.Context(), db)
		if err == nil && b.Pending+b.Delayed > 0 {
			err = fmt.Errorf("%+v", b)
		}
		return err
	})
}

// log is a publisher that keeps what it gets, and fails as the test demands.
type log struct {
	mu      sync.Mutex
	records map[string][]string // by key
	fail    func(key, text string) error
	lie     func() error // after it was done
}

func (l *log) Publish(_ string, messages ...*message.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, msg := range messages {
		key := msg.Metadata[cqrs.HeaderKey]
		if l.fail != nil {
			if err := l.fail(key, string(msg.Payload)); err != nil {
				return err
			}
		}
		if l.records == nil {
			l.records = map[string][]string{}
		}
		l.records[key] = append(l.records[key], string(msg.Payload))
		if l.lie != nil {
			if err := l.lie(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *log) Close() error { return nil }

func (l *log) of(key string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.records[key]...)
}

func topic(t *testing.T, brokers []string, partitions int32, limit int) (name string, read func() map[string][]string) {
	t.Helper()
	name = "test." + uuid.NewString()
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(brokers, config)
	require.NoError(t, err)
	defer admin.Close()
	bytes := fmt.Sprint(limit)
	require.NoError(t, admin.CreateTopic(name, &sarama.TopicDetail{
		NumPartitions: partitions, ReplicationFactor: 1, ConfigEntries: map[string]*string{"max.message.bytes": &bytes},
	}, false))
	return name, func() map[string][]string {
		byKey := map[string][]string{}
		err := kafka.ReadAll(t.Context(), kafka.Config{Brokers: brokers}, []string{name}, func(_ string, msg *message.Message) error {
			byKey[msg.Metadata[cqrs.HeaderKey]] = append(byKey[msg.Metadata[cqrs.HeaderKey]], string(msg.Payload))
			return nil
		})
		require.NoError(t, err)
		return byKey
	}
}

// Many writers, many keys, a real log: everything arrives, each key in order, and the outbox is empty.
func TestEveryKeyArrivesInOrder(t *testing.T) {
	db, dsn := kittest.Database(t)
	brokers := kittest.Kafka(t)
	name, read := topic(t, brokers, 6, 1_000_000)
	runKafka(t, db, dsn, brokers, 1_000_000, outbox.Options{Batch: 20})
	const writers, each = 8, 100
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for n := 0; n < each; n += 4 {
				var items []item
				for i := range 4 {
					items = append(items, item{key: fmt.Sprintf("%d-%d", w, i%3), text: fmt.Sprint(n + i)})
				}
				write(t, db, name, items...)
			}
		})
	}
	writing.Wait()
	drained(t, db)
	total := 0
	for key, texts := range read() {
		last := -1
		for _, text := range texts {
			var n int
			_, err := fmt.Sscan(text, &n)
			require.NoError(t, err)
			require.Greater(t, n, last, key)
			last = n
			total++
		}
	}
	require.Equal(t, writers*each, total)
}

// Six records of one key, of which the second is too large for the broker: the log holds the first, the rest waits behind a
// dead letter, and the keys beside it are not held up, although they shared a request.
func TestRefusedRecordBlocksItsKeyOnly(t *testing.T) {
	if os.Getenv("KAFKA_BROKERS") == "" {
		t.Skip("needs a real Kafka, which refuses records: set KAFKA_BROKERS")
	}
	const topicLimit = 20_000
	for name, clientLimit := range map[string]int{"by the broker": 1_000_000, "by the client": topicLimit} {
		t.Run(name, func(t *testing.T) {
			db, dsn := kittest.Database(t)
			brokers := kittest.Kafka(t)
			name, read := topic(t, brokers, 1, topicLimit) // one partition: all share it
			var items []item
			for n := 1; n <= 6; n++ {
				text := fmt.Sprint(n)
				if n == 2 {
					text = strings.Repeat("2", 2*topicLimit)
				}
				items = append(items, item{key: "guilty", text: text}, item{key: "innocent", text: fmt.Sprint(n)}, item{key: fmt.Sprint("other-", n), text: "1"})
			}
			write(t, db, name, items...)
			blocked := make(chan string, 10)
			runKafka(t, db, dsn, brokers, clientLimit, outbox.Options{OnBlocked: func(_, key string, _ error) { blocked <- key }})
			drained(t, db)
			write(t, db, name, item{key: "guilty", text: "7"}, item{key: "innocent", text: "7"})
			drained(t, db)
			require.Equal(t, "guilty", <-blocked)
			got := read()
			require.Equal(t, []string{"1"}, got["guilty"], "nothing overtakes the second")
			require.Equal(t, []string{"1", "2", "3", "4", "5", "6", "7"}, got["innocent"])
			require.Len(t, got, 8)
			var letter struct {
				Reason  string
				Payload []byte
				Count   int
			}
			require.NoError(t, db.Get(&letter, `SELECT reason, payload, count(*) OVER () AS count FROM dead_letters WHERE key = 'guilty' AND outbox_id IS NOT NULL`))
			require.Equal(t, 1, letter.Count)
			require.Len(t, letter.Payload, 2*topicLimit)
			require.Regexp(t, "too large|larger than", letter.Reason)
			b, err := outbox.LoadBacklog(t.Context(), db)
			require.NoError(t, err)
			require.Equal(t, 5, b.Blocked, "3 to 7 wait")
		})
	}
}

// Whatever fails and whatever is refused: what a key's log holds is a prefix of what was written, at least once each and in
// order; keys without a refused record arrive whole.
func TestOrderSurvivesFailures(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			db, dsn := kittest.Database(t)
			chance := rand.New(rand.NewPCG(seed, 0))
			bad := map[string]int{} // the record of a key that is refused
			for k := range 20 {
				if chance.IntN(4) == 0 {
					bad[fmt.Sprint("key-", k)] = chance.IntN(15)
				}
			}
			var mu sync.Mutex
			l := &log{fail: func(key, text string) error {
				mu.Lock()
				defer mu.Unlock()
				if n, ok := bad[key]; ok && fmt.Sprint(n) == text {
					return refused
				}
				switch chance.IntN(10) {
				case 0:
					return errors.New("passes")
				case 1:
					panic("a publisher may panic")
				}
				return nil
			}}
			for n := range 15 {
				var items []item
				for k := range 20 {
					items = append(items, item{key: fmt.Sprint("key-", k), text: fmt.Sprint(n)})
				}
				write(t, db, "t", items...)
			}
			run(t, db, dsn, l, outbox.Options{Batch: 7, Refused: func(err error) bool { return errors.Is(err, refused) }})
			drained(t, db)
			for k := range 20 {
				key := fmt.Sprint("key-", k)
				want := 15
				if n, ok := bad[key]; ok {
					want = n
				}
				require.Len(t, l.of(key), want, key)
				for n, text := range l.of(key) {
					require.Equal(t, fmt.Sprint(n), text, key)
				}
			}
			b, err := outbox.LoadBacklog(t.Context(), db)
			require.NoError(t, err)
			behind := 0
			for _, n := range bad {
				behind += 15 - n - 1
			}
			require.Equal(t, behind, b.Blocked)
		})
	}
}

// Redriven, a refused message takes its place before those that waited for it; dropped, it lets them go.
// Taken by the broker, but reported as a time-out: it comes twice, and never before its predecessor.
func TestTimedOutSendThatTookEffect(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	lies := 0
	l := &log{lie: func() error { // the log holds its lock
		if chance.IntN(6) > 0 {
			return nil
		}
		lies++
		return os.ErrDeadlineExceeded
	}}
	for n := range 15 {
		var items []item
		for k := range 10 {
			items = append(items, item{key: fmt.Sprint("key-", k), text: fmt.Sprint(n)})
		}
		write(t, db, "t", items...)
	}
	_, stop := run(t, db, dsn, l, outbox.Options{Batch: 7})
	drained(t, db)
	stop()
	require.Positive(t, lies)
	for k := range 10 {
		next := 0
		for _, text := range l.of(fmt.Sprint("key-", k)) {
			var n int
			_, err := fmt.Sscan(text, &n)
			require.NoError(t, err)
			require.LessOrEqual(t, n, next, "before its predecessor")
			next = max(next, n+1)
		}
		require.Equal(t, 15, next)
	}
}

func TestBlockedKeyContinuesAfterReplay(t *testing.T) {
	refused := errors.New("refused")
	for name, decide := range map[string]func(letters *deadletter.Store, id string) error{
		"redriven": func(letters *deadletter.Store, id string) error { return letters.Replay(t.Context(), id) },
		"dropped": func(letters *deadletter.Store, id string) error {
			return letters.Drop(t.Context(), id, "ada", "not needed")
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, dsn := kittest.Database(t)
			var recovered sync.Map
			l := &log{fail: func(_, text string) error {
				if _, ok := recovered.Load("all"); text == "2" && !ok {
					return refused
				}
				return nil
			}}
			for _, text := range []string{"1", "2", "3"} {
				write(t, db, "t", item{key: "k", text: text})
			}
			relay, _ := run(t, db, dsn, l, outbox.Options{Refused: func(err error) bool { return errors.Is(err, refused) }})
			drained(t, db)
			write(t, db, "t", item{key: "k", text: "4"})
			drained(t, db)
			require.Equal(t, []string{"1"}, l.of("k"))
			letters := deadletter.New(db)
			list, err := letters.List(t.Context(), cqrs.Newest, 10)
			require.NoError(t, err)
			require.Len(t, list, 1)
			recovered.Store("all", true)
			require.NoError(t, decide(letters, list[0].ID))
			relay.Wake()
			want := []string{"1", "2", "3", "4"}
			if name == "dropped" {
				want = []string{"1", "3", "4"}
			}
			kittest.Eventually(t, func() error {
				if got := l.of("k"); len(got) < len(want) {
					return fmt.Errorf("%v", got)
				}
				return nil
			})
			require.Equal(t, want, l.of("k"))
			kittest.Eventually(t, func() error { // rows go after the broker has their messages
				if b, err := outbox.LoadBacklog(t.Context(), db); err != nil || b != (outbox.Backlog{}) {
					return fmt.Errorf("%v %w", b, err)
				}
				return nil
			})
			n, err := letters.Count(t.Context())
			require.NoError(t, err)
			require.Zero(t, n)
			require.ErrorIs(t, decide(letters, list[0].ID), cqrs.ErrNotFound)
		})
	}
}

func TestDelayedMessagesBecomeDue(t *testing.T) {
	db, dsn := kittest.Database(t)
	l := &log{}
	relay, _ := run(t, db, dsn, l, outbox.Options{Poll: time.Hour}) // a net that would not catch it in time
	now := time.Now()
	write(t, db, "t", item{"k", "second", now.Add(900 * time.Millisecond)}, item{"k", "first", now.Add(300 * time.Millisecond)}, item{"k", "never", now.Add(time.Hour)}, item{key: "k", text: "now"})
	relay.Wake()
	kittest.Eventually(t, func() error {
		if got := l.of("k"); len(got) < 3 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	require.Equal(t, []string{"now", "first", "second"}, l.of("k"))
	require.GreaterOrEqual(t, time.Since(now), 900*time.Millisecond)
	b, err := outbox.LoadBacklog(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, outbox.Backlog{Delayed: 1}, b)
}

func TestStoppedTimersDoNotFire(t *testing.T) {
	db, _ := kittest.Database(t)
	write(t, db, "t", item{"k", "timer", time.Now().Add(time.Hour)}, item{key: "k", text: "due"})
	var ids []string
	require.NoError(t, db.Select(&ids, `SELECT message_id FROM outbox ORDER BY id`))
	ctx, unit := txn.NewUnit(t.Context(), db)
	require.NoError(t, outbox.CancelTimers(ctx, ids))
	require.NoError(t, txn.Commit(t.Context(), db, []*txn.Unit{unit}))
	b, err := outbox.LoadBacklog(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, 1, b.Pending, "one that is on its way already arrives all the same")
	require.Zero(t, b.Delayed)
}

// What is committed here is relayed without anybody looking for it: the relay polls once an hour, and would be found out.
func TestRelayIsWokenByACommit(t *testing.T) {
	db, dsn := kittest.Database(t)
	published := &log{}
	relay, _ := run(t, db, dsn, published, outbox.Options{Poll: time.Hour})
	kittest.Eventually(t, func() error {
		if !relay.HoldsAll() {
			return errors.New("it does not hold all shards yet")
		}
		return nil
	})
	commit := func(writer, n int) {
		ctx, unit := txn.NewUnit(t.Context(), db)
		for _, due := range []time.Time{{}, time.Now().Add(time.Duration(10*n) * time.Millisecond)} {
			msg := message.NewMessage(uuid.NewString(), fmt.Appendf(nil, "%d later=%t", n, !due.IsZero()))
			msg.Metadata[cqrs.HeaderKey] = fmt.Sprint(writer)
			if !due.IsZero() {
				msg.Metadata[cqrs.HeaderDue] = due.Format(time.RFC3339Nano)
			}
			msg.SetContext(ctx)
			require.NoError(t, outbox.NewPublisher(1000, kittest.Insert).Publish("t", msg))
		}
		done := relay.Committing()
		require.NoError(t, txn.Commit(t.Context(), db, []*txn.Unit{unit}))
		relay.Offer(outbox.MessagesFromContext(ctx))
		done()
	}
	const writers, times = 8, 60
	var all sync.WaitGroup
	for writer := range writers {
		all.Go(func() {
			for n := range times {
				commit(writer, times-n) // each timer is due before the one that was set before it
				time.Sleep(rand.N(5 * time.Millisecond))
			}
		})
	}
	all.Wait()
	for writer := range writers {
		kittest.Eventually(t, func() error {
			if got := len(published.of(fmt.Sprint(writer))); got != 2*times {
				return fmt.Errorf("writer %d: %d of %d messages", writer, got, 2*times)
			}
			return nil
		})
	}
	drained(t, db)
}

// Two relays share the shards: nothing is relayed twice, a commit of another instance wakes the holder, and when one goes the other
// takes over.
func TestRelaysShareTheShards(t *testing.T) {
	db, dsn := kittest.Database(t)
	a, b := &log{}, &log{}
	first, stopFirst := run(t, db, dsn, a, outbox.Options{Poll: time.Hour})
	kittest.Eventually(t, func() error {
		if !first.HoldsAll() {
			return errors.New("alone, it holds all")
		}
		return nil
	})
	second, _ := run(t, db, dsn, b, outbox.Options{Poll: time.Hour})
	kittest.Eventually(t, func() error {
		if n, m := first.Held(), second.Held(); n != outbox.Shards/2 || m != outbox.Shards/2 {
			return fmt.Errorf("they hold %d and %d", n, m)
		}
		return nil
	})
	notifier := outbox.NewNotifier(db)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go notifier.Run(ctx)
	for k := range 100 {
		notifier.Notify(write(t, db, "t", item{key: fmt.Sprint(k), text: "x"})) // nobody wakes the relays but this
	}
	drained(t, db)
	both := 0
	for k := range 100 {
		n, m := len(a.of(fmt.Sprint(k))), len(b.of(fmt.Sprint(k)))
		require.Equal(t, 1, n+m, "key %d", k)
		both |= n + 2*m
	}
	require.Equal(t, 3, both, "both had work")
	stopFirst()
	kittest.Eventually(t, func() error {
		if !second.HoldsAll() {
			return errors.New("it has not taken over")
		}
		return nil
	})
}

// A notification wakes the relays that hold shards of which something was written, and looks for delayed messages only if there are new ones. What a relay
// sends itself needs none.
func TestNotificationIsAboutShards(t *testing.T) {
	db, dsn := kittest.Database(t)
	relays, logs := [2]*outbox.Relay{}, [2]*log{{}, {}}
	for n := range relays {
		relays[n], _ = run(t, db, dsn, logs[n], outbox.Options{Poll: time.Hour})
	}
	kittest.Eventually(t, func() error {
		if n, m := relays[0].Held(), relays[1].Held(); n != outbox.Shards/2 || m != outbox.Shards/2 {
			return fmt.Errorf("they hold %d and %d", n, m)
		}
		return nil
	})
	keys := [2]string{}
	for k := 0; keys[0] == "" || keys[1] == ""; k++ {
		key := fmt.Sprint(k)
		for n, r := range relays {
			if r.Holds(outbox.ShardOf("t", key)) {
				keys[n] = key
			}
		}
	}
	time.Sleep(200 * time.Millisecond) // what the shares' end has woken has read
	notifier := outbox.NewNotifier(db)
	go notifier.Run(t.Context())

	first := write(t, db, "t", item{key: keys[0], text: "a"})
	second := write(t, db, "t", item{key: keys[1], text: "b"})
	notifier.Notify(second)
	arrived := func(n int, want ...string) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if got := logs[n].of(keys[n]); !slices.Equal(got, want) {
				return fmt.Errorf("relay %d has sent %v", n, got)
			}
			return nil
		})
	}
	arrived(1, "b")
	time.Sleep(100 * time.Millisecond)
	require.Empty(t, logs[0].of(keys[0]), "it was not woken")

	require.Equal(t, second, relays[0].Offer(slices.Concat(first, second)), "what another relay sends")
	arrived(0, "a")

	delayed := write(t, db, "t", item{key: keys[0], text: "c", due: time.Now().Add(300 * time.Millisecond)})
	notifier.Notify(delayed)
	arrived(0, "a", "c")
	require.Empty(t, relays[1].Offer(delayed), "each relay promotes delayed messages")
	drained(t, db)
}

// A message that is committed while its shard is being given away is for the relay that takes the shard, which is notified.
func TestMessageOfAShardThatIsGivenAwayIsOfOthers(t *testing.T) {
	db, dsn := kittest.Database(t)
	sending, release := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	defer goOn()
	l := &sharedLog{delay: func() time.Duration {
		select {
		case sending <- struct{}{}:
			<-release
		case <-release:
		}
		return 0
	}}
	first, _ := run(t, db, dsn, l.as("first"), outbox.Options{})
	kittest.Eventually(t, func() error {
		if !first.HoldsAll() {
			return fmt.Errorf("it holds %d shards", first.Held())
		}
		return nil
	})
	first.Offer(write(t, db, "t", item{key: "k", text: "1"}))
	<-sending // it gives no shard away meanwhile
	second, _ := run(t, db, dsn, l.as("second"), outbox.Options{})
	kittest.Eventually(t, func() error {
		if first.HoldsAll() {
			return errors.New("it is to give shards away")
		}
		return nil
	})
	require.Equal(t, outbox.Shards, first.Held())
	require.Zero(t, second.Held())
	var others, own int
	for k := range 100 {
		w := write(t, db, "t", item{key: fmt.Sprint("k", k), text: "1"})
		if len(first.Offer(w)) > 0 {
			others++
			require.False(t, first.Holds(outbox.ShardOf("t", fmt.Sprint("k", k))))
		} else {
			own++
		}
	}
	require.Positive(t, others)
	require.Positive(t, own)
	goOn()
	drained(t, db)
}

// Relays get the shards that they prefer, also later and from each other, and an equal part of those that nobody prefers. When one is gone, nobody's are left.
func TestRelaysHaveWhatTheyPrefer(t *testing.T) {
	db, dsn := kittest.Database(t)
	const first, last = outbox.FirstShard, outbox.FirstShard + outbox.Shards - 1
	var prefers [2]atomic.Pointer[[]int16]
	relays, stop := [2]*outbox.Relay{}, [2]func(){}
	held := func(want ...[]int16) {
		t.Helper()
		kittest.Eventually(t, func() error {
			for n, shards := range want {
				for _, shard := range shards {
					if !relays[n].Holds(shard) {
						return fmt.Errorf("relay %d does not hold %d, but %d shards", n, shard, relays[n].Held())
					}
				}
			}
			return nil
		})
	}
	for n := range relays {
		prefers[n].Store(&[]int16{})
		relays[n], stop[n] = run(t, db, dsn, &log{}, outbox.Options{Preferred: func() []int16 { return *prefers[n].Load() }})
	}
	kittest.Eventually(t, func() error {
		if n, m := relays[0].Held(), relays[1].Held(); n != outbox.Shards/2 || m != outbox.Shards/2 {
			return fmt.Errorf("they hold %d and %d", n, m)
		}
		return nil
	})
	prefers[0].Store(&[]int16{first, last})
	prefers[1].Store(&[]int16{first + 1, last - 1})
	held([]int16{first, last}, []int16{first + 1, last - 1})
	prefers[0].Store(&[]int16{first + 1, last - 1})
	prefers[1].Store(&[]int16{first, last})
	held([]int16{first + 1, last - 1}, []int16{first, last})
	kittest.Eventually(t, func() error {
		if n, m := relays[0].Held(), relays[1].Held(); n != outbox.Shards/2 || m != outbox.Shards/2 {
			return fmt.Errorf("they hold %d and %d", n, m)
		}
		return nil
	})
	stop[0]()
	kittest.Eventually(t, func() error {
		if !relays[1].HoldsAll() {
			return fmt.Errorf("it holds %d", relays[1].Held())
		}
		return nil
	})
}

// Several relays prefer the same shards, as those of two services on one database do, or one of them is of the version before and prefers none: each has an equal part.
func TestRelaysThatPreferTheSameShareIt(t *testing.T) {
	all := make([]int16, outbox.Shards)
	for n := range all {
		all[n] = outbox.FirstShard + int16(n)
	}
	for name, former := range map[string]bool{"the same": false, "the version before": true} {
		t.Run(name, func(t *testing.T) {
			db, dsn := kittest.Database(t)
			options := outbox.Options{Preferred: func() []int16 { return all }}
			relays := []*outbox.Relay{}
			if former {
				db.MustExec(`INSERT INTO relays (owner, host, since, expires_at) VALUES ('former', 'former', now(), app_now() + interval '1 hour')`)
			} else {
				relay, _ := run(t, db, dsn, &log{}, options)
				relays = append(relays, relay)
			}
			relay, _ := run(t, db, dsn, &log{}, options)
			kittest.Eventually(t, func() error {
				for _, relay := range append(relays, relay) {
					if held := relay.Held(); held != outbox.Shards/2 {
						return fmt.Errorf("one holds %d", held)
					}
				}
				return nil
			})
		})
	}
}

// The database has the same shards, also for a row that a program of the version before inserts.
func TestShardIsThatOfTheDatabase(t *testing.T) {
	db, _ := kittest.Database(t)
	rapid.Check(t, func(rt *rapid.T) {
		valid := rapid.String().Filter(func(s string) bool { return !strings.Contains(s, "\x00") })
		topic, key := valid.Draw(rt, "topic"), valid.Draw(rt, "key")
		var said, corrected int16
		require.NoError(rt, db.Get(&said, `SELECT outbox_shard($1, $2)`, topic, key))
		require.Equal(rt, outbox.ShardOf(topic, key), said)
		require.NoError(rt, db.Get(&corrected, `INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ('m', $1, $2, $3, '', '{}') RETURNING shard`,
			topic, key, rapid.Int16Range(0, 15).Draw(rt, "former shard")))
		require.Equal(rt, said, corrected)
	})
}

// A lease of an instance that is gone ends by the database's clock, and only then another relay takes the shard.
func TestLeasesExpireByTheDatabasesClock(t *testing.T) {
	db, dsn := kittest.Database(t)
	_, err := db.Exec(`UPDATE relay_leases SET owner = 'gone', expires_at = app_now() + interval '1 hour'`)
	require.NoError(t, err)
	now, stop := run(t, db, dsn, &log{}, outbox.Options{Poll: 50 * time.Millisecond})
	time.Sleep(500 * time.Millisecond)
	require.Zero(t, now.Held())
	stop()
	later, _ := run(t, kittest.ClockAhead(t, db, 2*time.Hour), kittest.ClockAheadDSN(t, dsn, 2*time.Hour), &log{}, outbox.Options{Poll: 50 * time.Millisecond})
	kittest.Eventually(t, func() error {
		if !later.HoldsAll() {
			return errors.New("it has not taken over")
		}
		return nil
	})
}

// Of the relays on a host the one that started first works, and counts; when it ends, the next one does.
func TestOneRelayOfAHostWorks(t *testing.T) {
	db, dsn := kittest.Database(t)
	hold := func(want map[*outbox.Relay]int) {
		t.Helper()
		kittest.Eventually(t, func() error {
			for relay, n := range want {
				if held := relay.Held(); held != n {
					return fmt.Errorf("one holds %d shards instead of %d", held, n)
				}
			}
			return nil
		})
	}
	now := time.Now()
	second, _ := run(t, db, dsn, &log{}, outbox.Options{Host: "a", Since: now})
	hold(map[*outbox.Relay]int{second: outbox.Shards})
	first, stopFirst := run(t, db, dsn, &log{}, outbox.Options{Host: "a", Since: now.Add(-time.Minute)}) // has lost its connection
	hold(map[*outbox.Relay]int{first: outbox.Shards, second: 0})
	onAnotherHost, _ := run(t, db, dsn, &log{}, outbox.Options{Host: "b", Since: now})
	hold(map[*outbox.Relay]int{first: outbox.Shards / 2, second: 0, onAnotherHost: outbox.Shards / 2})
	stopFirst()
	hold(map[*outbox.Relay]int{second: outbox.Shards / 2, onAnotherHost: outbox.Shards / 2})
}

// guarded is a publisher behind a breaker.
type guarded struct {
	message.Publisher
	breaker *breaker.Breaker
}

func (g guarded) Publish(topic string, messages ...*message.Message) error {
	return g.breaker.Do(func() error { return g.Publisher.Publish(topic, messages...) })
}

// While the broker is away the breaker keeps the relay from hammering it; afterwards everything arrives, in order.
func TestBrokerAwayThenBack(t *testing.T) {
	db, dsn := kittest.Database(t)
	var mu sync.Mutex
	away, calls := true, 0
	l := &log{fail: func(string, string) error {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if away {
			return errors.New("away")
		}
		return nil
	}}
	settings := breaker.Default("kafka")
	settings.Timeout = 200 * time.Millisecond
	guard := breaker.New(settings, breaker.Options{Failed: func(error) bool { return true }})
	for n := range 300 {
		write(t, db, "t", item{key: fmt.Sprint(n % 50), text: fmt.Sprint(n)})
	}
	run(t, db, dsn, guarded{l, guard}, outbox.Options{})
	kittest.Eventually(t, func() error {
		if s := guard.Snapshot(); s.State != "open" {
			return errors.New(s.State)
		}
		return nil
	})
	time.Sleep(time.Second) // some rounds
	mu.Lock()
	require.Less(t, calls, 200, "50 keys a round would be thousands")
	away = false
	mu.Unlock()
	drained(t, db)
	for k := range 50 {
		var want []string
		for n := k; n < 300; n += 50 {
			want = append(want, fmt.Sprint(n))
		}
		require.Equal(t, want, l.of(fmt.Sprint(k)))
	}
}

func TestTooLargeMessageIsRefusedAtPublish(t *testing.T) {
	ctx, _ := txn.NewUnit(t.Context(), nil)
	msg := message.NewMessage("m-1", make([]byte, 2000))
	msg.SetContext(ctx)
	msg.Metadata[cqrs.HeaderType] = "PlaceOrder"
	err := outbox.NewPublisher(1000, kittest.Insert).Publish("orders", msg)
	require.ErrorIs(t, err, outbox.ErrTooLarge)
	require.ErrorContains(t, err, "publish PlaceOrder to orders: message too large: ")
	require.ErrorContains(t, err, "at most 1000")
	msg.SetContext(t.Context())
	require.ErrorContains(t, outbox.NewPublisher(10_000, kittest.Insert).Publish("orders", msg), "outside a unit of work")
}

// slowly is a statement of a unit of work, of a read model's table for example, that waits for a lock.
var slowly = &txn.Statement[float64]{
	Doing: "wait", Rank: 60,
	Query: func(seconds []float64) (string, []any, error) { return `SELECT pg_sleep($1)`, []any{seconds[0]}, nil },
}

// runHoldingAll runs a relay and waits until it holds all shards.
func runHoldingAll(t *testing.T, db *sqlx.DB, dsn string, to message.Publisher) *outbox.Relay {
	t.Helper()
	relay, _ := run(t, db, dsn, to, outbox.Options{})
	kittest.Eventually(t, func() error {
		if !relay.HoldsAll() {
			return errors.New("it has no leases yet")
		}
		return nil
	})
	return relay
}

// keyBeside is another key of the same shard.
func keyBeside(topic, key string) (other string) {
	for i := 0; outbox.ShardOf(topic, other) != outbox.ShardOf(topic, key); i++ {
		other = fmt.Sprint("other ", i)
	}
	return other
}

// TestRelayKeepsKeyOrderWhenCommitsStall has transactions commit, or roll back, long after they took the ids of their rows, while the relay sends
// later rows of the same shard. Each key is sent in the order in which its transactions committed.
func TestRelayKeepsKeyOrderWhenCommitsStall(t *testing.T) {
	db, dsn := kittest.Database(t)
	var sent log
	const topic, keys, each = "events.orders", 4, 30
	relay := runHoldingAll(t, db, dsn, &sent)
	relay.AdvanceMarksOften()
	shard := outbox.ShardOf(topic, "")
	of := func(n int) (key string) { // the n-th key of the shard
		for i := 0; n >= 0; i++ {
			if key = fmt.Sprint("key ", i); outbox.ShardOf(topic, key) == shard {
				n--
			}
		}
		return key
	}
	insert := func(tx *sqlx.Tx, key, text string) error {
		_, err := tx.Exec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ($1, $2, $3, $4, $5, $6)`,
			uuid.NewString(), topic, key, shard, text, fmt.Sprintf(`{%q: %q}`, cqrs.HeaderKey, key))
		return err
	}
	var writers sync.WaitGroup
	for w := range keys {
		writers.Go(func() {
			chance := rand.New(rand.NewPCG(uint64(w), 1))
			for n := 0; n < each; {
				tx, err := db.Beginx()
				if err != nil {
					t.Error(err)
					return
				}
				if err := insert(tx, of(w), fmt.Sprint(n)); err != nil {
					t.Error(err)
				}
				pause := time.Duration(chance.IntN(20)) * time.Millisecond
				if chance.IntN(10) == 0 {
					pause = time.Duration(chance.IntN(400)) * time.Millisecond
				}
				time.Sleep(pause)
				if chance.IntN(5) == 0 {
					_ = tx.Rollback()
					continue
				}
				if err := tx.Commit(); err != nil {
					t.Error(err)
				}
				relay.Wake()
				n++
			}
		})
	}
	finished, advances, last := make(chan struct{}), 0, int64(0)
	go func() { writers.Wait(); close(finished) }()
	for working := true; working; {
		select {
		case <-finished:
			working = false
		default:
			write(t, db, topic, item{key: of(keys)})
			relay.Wake()
			if mark := relay.LowWaterMark(shard); mark > last {
				advances, last = advances+1, mark
			}
		}
	}
	drained(t, db)
	var want []string
	for n := range each {
		want = append(want, fmt.Sprint(n))
	}
	for w := range keys {
		require.Equal(t, want, sent.of(of(w)), "key %d", w)
	}
	require.Greater(t, advances, 5, "the mark advances between the stalls")
}

// A unit of work whose other statements wait for locks commits long after it began. Its message is sent before the next message of its key,
// although the relay has sent later rows of other keys meanwhile.
func TestRelayKeepsKeyOrderAfterASlowCommit(t *testing.T) {
	db, dsn := kittest.Database(t)
	var sent log
	const topic, key = "events.orders", "slow"
	relay, other := runHoldingAll(t, db, dsn, &sent), keyBeside(topic, key)
	relay.AdvanceMarksOften()
	for round := range 4 {
		ctx, unit := txn.NewUnit(t.Context(), db)
		msg := message.NewMessage(uuid.NewString(), []byte(fmt.Sprint(2*round)))
		msg.Metadata[cqrs.HeaderKey] = key
		msg.SetContext(ctx)
		require.NoError(t, outbox.NewPublisher(1_000_000, kittest.Insert).Publish(topic, msg))
		require.NoError(t, slowly.Write(ctx, 1))
		committed := make(chan error)
		go func() { committed <- txn.Commit(t.Context(), db, []*txn.Unit{unit}) }()
		for waits := true; waits; {
			select {
			case err := <-committed:
				require.NoError(t, err)
				waits = false
			default:
				write(t, db, topic, item{key: other})
				relay.Wake()
				time.Sleep(5 * time.Millisecond)
			}
		}
		write(t, db, topic, item{key: key, text: fmt.Sprint(2*round + 1)})
		relay.Wake()
	}
	drained(t, db)
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6", "7"}, sent.of(key))
}
