package keyqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/keyqueue"
	"github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// partition is a message.Subscriber that delivers what is pushed, each key's messages in order, one at a time; a nacked message again.
type partition struct {
	in     chan delivery
	closed chan struct{}
	once   sync.Once
}

// delivery is a message, and what is closed once it was acknowledged.
type delivery struct {
	*message.Message
	done chan struct{}
}

func newPartition() *partition {
	return &partition{in: make(chan delivery), closed: make(chan struct{})}
}

// deliver returns when the message was acknowledged, as another instance gets a partition only then.
func (p *partition) deliver(msg *message.Message) {
	d := delivery{msg, make(chan struct{})}
	p.in <- d
	<-d.done
}

func (p *partition) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for {
			select {
			case <-p.closed:
				return
			case msg := <-p.in:
				for {
					again := message.NewMessage(msg.UUID, msg.Payload)
					again.Metadata = msg.Metadata
					again.SetContext(context.WithoutCancel(ctx))
					select {
					case out <- again:
					case <-p.closed:
						return
					}
					select {
					case <-again.Acked():
					case <-again.Nacked():
						continue
					}
					close(msg.done)
					break
				}
			}
		}
	}()
	return out, nil
}

func (p *partition) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// world is what instances share: the database, and which messages were handled, as an inbox knows it.
type environment struct {
	t        require.TestingT
	db       *sqlx.DB
	consumer string

	mu      sync.Mutex
	handled map[string][]string // by key
	outcome func() string       // of the next attempt
}

func (w *environment) take(key, id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.handled[key], id) {
		return "ok" // the inbox knows it
	}
	o := w.outcome()
	if o == "ok" || o == "crash after" {
		w.handled[key] = append(w.handled[key], id)
	}
	return o
}

// instance consumes a partition, and what waits in the queue.
type instance struct {
	*environment
	queue     *keyqueue.Queue
	partition *partition
	stop      func()
}

func (w *environment) start() *instance {
	i := &instance{environment: w, queue: keyqueue.New(w.db), partition: newPartition()}
	i.queue.Poll = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { i.queue.Run(ctx, slog.New(slog.DiscardHandler)) })
	subscriber := i.queue.Subscriber(w.consumer, i.partition)
	messages, err := subscriber.Subscribe(ctx, "topic")
	require.NoError(w.t, err)
	running.Go(func() {
		var handlers sync.WaitGroup
		for msg := range messages {
			handlers.Go(func() { i.handle(msg) })
		}
		handlers.Wait()
	})
	i.stop = func() {
		_ = subscriber.Close()
		cancel()
		running.Wait()
	}
	return i
}

func (i *instance) handle(msg *message.Message) {
	key := msg.Metadata[cqrs.HeaderKey]
	m := cqrs.Received{Key: cqrs.MessageKey{Consumer: i.consumer, Key: key}, Topic: "topic", ID: msg.UUID, Headers: msg.Metadata, Payload: msg.Payload}
	ctx := msg.Context()
	if _, redelivered := cqrs.RedeliveryFromContext(ctx); !redelivered {
		enqueued, err := i.queue.Enqueue(ctx, m)
		if err != nil || enqueued {
			ack(msg, err)
			return
		}
	}
	switch i.take(key, msg.UUID) {
	case "ok":
		ack(msg, i.queue.Complete(ctx, m))
	case "retry":
		ack(msg, i.queue.RetryAfter(ctx, m, 5*time.Millisecond))
	case "dead":
		tx, err := i.db.Beginx()
		if err == nil {
			_, err = i.queue.DeadLetter(txn.WithTx(context.WithoutCancel(ctx), tx), m, "dead", "", true)
		}
		if err == nil {
			err = tx.Commit()
		}
		if tx != nil {
			_ = tx.Rollback()
		}
		ack(msg, err)
	default: // a crash, before or after its effect was committed
		msg.Nack()
	}
}

func ack(msg *message.Message, err error) {
	if err != nil {
		msg.Nack()
		return
	}
	msg.Ack()
}

// However messages of a key fail, are retried, die, are replayed and are delivered twice, and whichever of two instances handles them: the
// messages of a key are handled in the order in which they came, all of them, once.
func TestRetryKeepsKeyOrder(t *testing.T) {
	db, _ := kittest.Database(t)
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		w := &environment{t: t, db: db, consumer: fmt.Sprint("consumer-", round), handled: map[string][]string{}}
		plan := rapid.SliceOfN(rapid.SampledFrom([]string{"ok", "ok", "ok", "retry", "retry", "dead", "crash before", "crash after"}), 1, 40).Draw(t, "outcomes")
		w.outcome = func() string {
			if len(plan) == 0 {
				return "ok"
			}
			next := plan[0]
			plan = plan[1:]
			return next
		}
		keys := []string{"a", "\x00\xff\x01", strings.Repeat("long", 2000)}
		want := map[string][]string{}
		a, b := w.start(), w.start()
		var publishing sync.WaitGroup
		for k, key := range keys {
			n := rapid.IntRange(1, 6).Draw(t, "messages")
			moves := rapid.IntRange(0, 7).Draw(t, "moves to the other instance after")
			twice := rapid.IntRange(0, 7).Draw(t, "delivered twice")
			for i := range n {
				want[key] = append(want[key], fmt.Sprintf("%d-%d", k, i))
			}
			ids := want[key]
			publishing.Go(func() {
				for i, id := range ids {
					to := a
					if i >= moves {
						to = b
					}
					msg := message.NewMessage(id, []byte(id))
					msg.Metadata[cqrs.HeaderKey] = key
					to.partition.deliver(msg)
					if i == twice {
						to.partition.deliver(msg)
					}
				}
			})
		}
		publishing.Wait()
		deadLetters := deadletter.New(db)
		require.Eventually(t, func() bool {
			all, err := deadLetters.List(context.Background(), cqrs.Newest, 100)
			require.NoError(t, err)
			for _, l := range all {
				if err := deadLetters.Replay(context.Background(), l.ID); !errors.Is(err, cqrs.ErrNotFound) {
					require.NoError(t, err)
				}
			}
			var waiting int
			require.NoError(t, db.Get(&waiting, `SELECT (SELECT count(*) FROM blocked_keys WHERE consumer = $1) + (SELECT count(*) FROM waiting_messages WHERE consumer = $1)
				+ (SELECT count(*) FROM dead_letters WHERE consumer = $1)`, w.consumer))
			w.mu.Lock()
			defer w.mu.Unlock()
			n := 0
			for _, ids := range w.handled {
				n += len(ids)
			}
			return waiting == 0 && n == len(want[keys[0]])+len(want[keys[1]])+len(want[keys[2]])
		}, 60*time.Second, 10*time.Millisecond)
		a.stop()
		b.stop()
		require.Equal(t, want, w.handled)
	})
	require.Positive(t, round)
}

// A lease that is not renewed ends: another instance goes on with the key, and the instance that lost it changes nothing any more.
func TestRetryLeaseOfADeadInstance(t *testing.T) {
	db, _ := kittest.Database(t)
	q := keyqueue.New(db)
	m := cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: "k"}, Topic: "topic", ID: "1", Headers: map[string]string{cqrs.HeaderKey: "k"}}
	require.NoError(t, q.RetryAfter(t.Context(), m, 0))
	_, err := db.Exec(`UPDATE blocked_keys SET lease = 'dead instance', due_at = now() - interval '1 second'`) // 31 s later
	require.NoError(t, err)
	w := &environment{t: t, db: db, consumer: "c", handled: map[string][]string{}, outcome: func() string { return "ok" }}
	i := w.start()
	defer i.stop()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Equal(w.handled["k"], []string{"1"})
	}, 30*time.Second, 10*time.Millisecond)
	late := cqrs.WithRedelivery(t.Context(), cqrs.Redelivery{Position: 1, Lease: "dead instance"})
	require.NoError(t, q.RetryAfter(late, m, time.Hour))
	require.NoError(t, q.Complete(late, m))
	var keys int
	require.Eventually(t, func() bool { return db.Get(&keys, `SELECT count(*) FROM blocked_keys`) == nil && keys == 0 }, 30*time.Second, 10*time.Millisecond)
	tx, err := db.Beginx()
	require.NoError(t, err)
	defer tx.Rollback() // never committed
	_, err = q.DeadLetter(txn.WithTx(late, tx), m, "reason", "", true)
	require.ErrorIs(t, err, keyqueue.ErrLeaseLost)
}

// Any bytes can be a dead letter: keeping one fails only if the database is away. A replay hands the consumer the same bytes.
func TestDeadLetterOfAnyBytes(t *testing.T) {
	db, _ := kittest.Database(t)
	deadLetters, n := deadletter.New(db), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		raw := func(name string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, name)) }
		long := rapid.SampledFrom([]string{"", strings.Repeat("x", 6000), strings.Repeat("\x00\xff", 3000)}).Draw(t, "long")
		m := cqrs.Received{
			Key: cqrs.MessageKey{Consumer: fmt.Sprint("c", n), Key: raw("key") + long}, Topic: "topic", Source: raw("source") + long, ID: raw("id") + long,
			Headers: map[string]string{raw("name"): raw("value") + long, raw("name"): raw("value")}, Payload: []byte(raw("payload")),
		}
		if rapid.Bool().Draw(t, "tombstone") {
			m.Payload = nil
		}
		hold := rapid.Bool().Draw(t, "hold")
		q := keyqueue.New(db)
		tx, err := db.Beginx()
		require.NoError(t, err)
		defer tx.Rollback() // after a commit it does nothing
		id, err := q.DeadLetter(txn.WithTx(context.Background(), tx), m, "reason "+raw("reason"), raw("stack"), hold)
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		l, err := deadLetters.ByID(context.Background(), id)
		require.NoError(t, err)
		require.Equal(t, append([]byte{}, m.Payload...), append([]byte{}, l.Payload...))
		require.Len(t, l.Headers, len(m.Headers))

		p := newPartition()
		s := q.Subscriber(m.Key.Consumer, p)
		messages, err := s.Subscribe(context.Background(), "topic")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); q.Run(ctx, slog.New(slog.DiscardHandler)) }()
		require.NoError(t, deadLetters.Replay(context.Background(), id))
		q.Wake()
		msg := <-messages
		require.Equal(t, []any{m.ID, m.Headers, m.Payload == nil}, []any{msg.UUID, map[string]string(msg.Metadata), msg.Payload == nil})
		require.Equal(t, append([]byte{}, m.Payload...), append([]byte{}, msg.Payload...))
		require.NoError(t, q.Complete(msg.Context(), m))
		msg.Ack()
		require.NoError(t, s.Close())
		cancel()
		<-done
	})
}

// A message that is refused again after its dead letter was dropped is a dead letter again.
func TestDeadLetterAgainAfterDrop(t *testing.T) {
	db, _ := kittest.Database(t)
	q, deadLetters := keyqueue.New(db), deadletter.New(db)
	m := cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: "k"}, Topic: "topic", ID: "1", Headers: map[string]string{}, Payload: []byte("{}")}
	dead := func() string {
		tx, err := db.Beginx()
		require.NoError(t, err)
		id, err := q.DeadLetter(txn.WithTx(t.Context(), tx), m, "reason", "", true)
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		return id
	}
	require.NoError(t, deadLetters.Drop(t.Context(), dead(), "operator", "nonsense"))
	var keys int
	require.NoError(t, db.Get(&keys, `SELECT count(*) FROM blocked_keys`))
	require.Zero(t, keys)
	again := dead()
	l, err := deadLetters.ByID(t.Context(), again)
	require.NoError(t, err)
	require.Equal(t, 2, l.Attempts)
	require.NoError(t, db.Get(&keys, `SELECT count(*) FROM blocked_keys`))
	require.Equal(t, 1, keys)
}

// What waits in the tables of the version before is moved, in its order: behind a message that is retried, and behind a dead letter.
func TestMigrationKeepsWaitingMessages(t *testing.T) {
	db, _ := kittest.Database(t)
	version := func() (v int) {
		require.NoError(t, db.Get(&v, `SELECT max(version_id) FROM kit_migrations`))
		return v
	}
	for version() >= 7 {
		require.NoError(t, migrations.New(nil).Down(t.Context(), db.DB))
	}
	_, err := db.Exec(`
		INSERT INTO lines (consumer, line, head, attempts, first_at) VALUES
			('c', 'retried', 'a1', 2, now()), ('c', 'dead', 'b1', 8, now()), ('c', 'in Kafka', 'c1', 0, now());
		INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at, consumer, line) VALUES
			('a2', 'topic', 'retried', 0, '2', '{"ce_partitionkey":"retried","consumer":"c"}', 'infinity', 'c', 'retried'),
			('a1', 'topic', 'retried', 0, '1', '{"ce_partitionkey":"retried","consumer":"c","x":"ü\u0000"}', now(), 'c', 'retried'),
			('a3', 'topic', 'retried', 0, '3', '{"ce_partitionkey":"retried","consumer":"c"}', 'infinity', 'c', 'retried'),
			('b2', 'topic', 'dead', 0, '2', '{"ce_partitionkey":"dead","consumer":"c"}', 'infinity', 'c', 'dead'),
			('own', 'topic', 'own', 0, '', '{}', now() + interval '1 hour', NULL, NULL);
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, line, headers, payload, reason, attempts, first_at, last_at) VALUES
			('letter', 'c', 'b1', 'topic', 'dead', 'dead', '{"ce_partitionkey":"dead"}', '1', 'reason', 8, now(), now()),
			('m1@relay', 'relay', 'm1', 'topic', 'k', NULL, '{}', '', 'too large', 2, now(), now())`)
	require.NoError(t, err)
	require.NoError(t, migrations.New(nil).Up(t.Context(), db.DB))
	require.ErrorContains(t, func() error {
		for version() >= 7 {
			if err := migrations.New(nil).Down(t.Context(), db.DB); err != nil {
				return err
			}
		}
		return nil
	}(), "messages wait to be retried")
	require.NoError(t, migrations.New(nil).Up(t.Context(), db.DB))

	w := &environment{t: t, db: db, consumer: "c", handled: map[string][]string{}, outcome: func() string { return "ok" }}
	i := w.start()
	defer i.stop()
	handled := func(key string, ids ...string) func() bool {
		return func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Equal(w.handled[key], ids)
		}
	}
	require.Eventually(t, handled("retried", "a1", "a2", "a3"), 30*time.Second, 10*time.Millisecond)
	require.True(t, handled("dead")())
	require.NoError(t, deadletter.New(db).Replay(t.Context(), "letter"))
	require.Eventually(t, handled("dead", "b1", "b2"), 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { // the last message is removed after it was handled
		var left []string
		require.NoError(t, db.Select(&left, `SELECT message_id FROM outbox UNION ALL SELECT convert_from(key, 'UTF8') FROM blocked_keys UNION ALL SELECT message_id FROM dead_letters`))
		return slices.Equal(left, []string{"own", "m1"})
	}, 30*time.Second, 10*time.Millisecond)
}

// Messages of one key are in flight together: the second one was begun while the first one was being committed. The first one's predecessor has
// failed meanwhile, so their key is blocked. The second one must not be stored before the first one.
func TestRetryKeepsKeyOrderOfMessagesInFlight(t *testing.T) {
	db, _ := kittest.Database(t)
	q := keyqueue.New(db)
	received := func(id string) cqrs.Received {
		return cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: "k"}, Topic: "topic", ID: id, Headers: map[string]string{}}
	}
	require.NoError(t, q.RetryAfter(t.Context(), received("0"), time.Hour))
	first := cqrs.NewTurn(nil)
	second := cqrs.NewTurn(first)
	stored := make(chan error, 1)
	go func() {
		_, err := q.Enqueue(cqrs.WithTurn(t.Context(), second), received("2"))
		stored <- err
	}()
	select {
	case err := <-stored:
		require.NoError(t, err)
		t.Fatal("message 2 is stored before message 1")
	case <-time.After(500 * time.Millisecond):
	}
	_, err := q.Enqueue(cqrs.WithTurn(t.Context(), first), received("1"))
	require.NoError(t, err)
	first.Done()
	require.NoError(t, <-stored)
	var ids []string
	require.NoError(t, db.Select(&ids, `SELECT convert_from(message_id, 'UTF8') FROM waiting_messages ORDER BY id`))
	require.Equal(t, []string{"0", "1", "2"}, ids)
}

// Two messages with one id and different keys, as a service sends that numbers its messages within a key: each key is blocked for its own
// message, and the replay of each dead letter frees its own key.
func TestDeadLettersOfTwoKeysWithOneMessageID(t *testing.T) {
	db, _ := kittest.Database(t)
	q, deadLetters := keyqueue.New(db), deadletter.New(db)
	for _, key := range []string{"a", "b"} {
		m := cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: key}, Topic: "topic", ID: "1", Headers: map[string]string{cqrs.HeaderKey: key}, Payload: []byte(key)}
		tx, err := db.Beginx()
		require.NoError(t, err)
		_, err = q.DeadLetter(txn.WithTx(t.Context(), tx), m, "reason", "", true)
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		m.ID = "2"
		enqueued, err := q.Enqueue(t.Context(), m)
		require.NoError(t, err)
		require.True(t, enqueued)
	}
	all, err := deadLetters.List(t.Context(), cqrs.Newest, 10)
	require.NoError(t, err)
	for _, l := range all {
		require.NoError(t, deadLetters.Drop(t.Context(), l.ID, "operator", "nonsense"))
	}
	var blocked []string
	require.NoError(t, db.Select(&blocked, `SELECT convert_from(key, 'UTF8') FROM blocked_keys WHERE due_at = 'infinity'`))
	require.Empty(t, blocked, "blocked for ever, and no dead letter says so")
	require.Len(t, all, 2)
}

// A replay blocks the key of a message that is about to become a dead letter. The message waits behind the replayed one, and may then be
// handled: no dead letter of it is left, whose replay would handle it again after the inbox's retention.
func TestDeadLetterOfAMessageThatWasHandledAfterAReplay(t *testing.T) {
	db, _ := kittest.Database(t)
	q, deadLetters := keyqueue.New(db), deadletter.New(db)
	m := cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: "k"}, Topic: "topic", Headers: map[string]string{cqrs.HeaderKey: "k"}, Payload: []byte{}}
	dead := func(id string, hold bool) string {
		m.ID = id
		tx, err := db.Beginx()
		require.NoError(t, err)
		defer tx.Rollback() // after a commit it does nothing
		deadLetter, err := q.DeadLetter(txn.WithTx(t.Context(), tx), m, "reason", "", hold)
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		return deadLetter
	}
	require.NoError(t, deadLetters.Replay(t.Context(), dead("1", false)))
	dead("2", true)
	w := &environment{t: t, db: db, consumer: "c", handled: map[string][]string{}, outcome: func() string { return "ok" }}
	i := w.start()
	defer i.stop()
	require.Eventually(t, func() bool {
		var keys int
		require.NoError(t, db.Get(&keys, `SELECT count(*) FROM blocked_keys`))
		return keys == 0
	}, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, map[string][]string{"k": {"1", "2"}}, w.handled)
	list, err := deadLetters.List(t.Context(), cqrs.Newest, 10)
	require.NoError(t, err)
	require.Empty(t, list)
}

// Two sources send messages with one id and different keys. That one key is blocked does not count for the other.
func TestRetryKeepsKeyOrderOfTwoSourcesWithOneMessageID(t *testing.T) {
	db, _ := kittest.Database(t)
	here, there := keyqueue.New(db), keyqueue.New(db)
	received := func(key, id string) cqrs.Received {
		return cqrs.Received{Key: cqrs.MessageKey{Consumer: "c", Key: key}, Topic: "topic", Source: "/" + key, ID: id, Headers: map[string]string{}}
	}
	require.NoError(t, there.RetryAfter(t.Context(), received("blocked", "1"), time.Hour))
	free, err := here.Enqueue(t.Context(), received("free", "2"))
	require.NoError(t, err)
	require.False(t, free)
	enqueued, err := here.Enqueue(t.Context(), received("blocked", "2"))
	require.NoError(t, err)
	require.True(t, enqueued, "message 2 is handled before message 1")
}
