package broker_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

func TestMain(m *testing.M) {
	if name := os.Getenv("DELIVERY_WORKER"); name != "" {
		if err := runWorker(name); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
		return
	}
	kittest.Main(m)
}

// The handlers of the test compare each message with the previous message of its key, in the transaction that processes it.
const deliveryTables = `
	CREATE TABLE test_inbox (message_id text PRIMARY KEY, way text NOT NULL);
	CREATE TABLE test_keys (key text PRIMARY KEY, seq int NOT NULL);
	CREATE TABLE test_faults (key text, seq int, after int, way text, worker text);`

// How a message reached its handler. The header localMark has this value; a message without the header came through Kafka.
const (
	localMark = "test_local"
	byKafka   = "Kafka"
	byOffer   = "offer"       // delivered locally by the relay
	byClaim   = "handed over" // delivered locally by the commit that sent it
	inline    = "inline"      // handled in the transaction that sent it
)

// marking is a sender that sets the header localMark of the messages that are delivered locally.
type marking struct{ outbox.Local }

func (m marking) Offer(topic string, msg *message.Message, more bool, done func(acked bool)) bool {
	marked := msg.Copy()
	marked.Metadata[localMark] = byOffer
	return m.Local.Offer(topic, marked, more, done)
}

func (m marking) Claim(topic, key string) (release func(), deliver outbox.Deliver) {
	release, to := m.Local.(outbox.Claimer).Claim(topic, key)
	if to == nil {
		return nil, nil
	}
	return release, func(msg *message.Message, with func(context.Context) context.Context, done func(acked bool)) {
		marked := msg.Copy()
		marked.Metadata[localMark] = byClaim
		to(marked, with, done)
	}
}

func (m marking) Close() { m.Local.(interface{ Close() }).Close() }

// deliveryWorker is a worker process of the test, with a relay and a subscriber.
type deliveryWorker struct {
	name, topic string
	db          *sqlx.DB
	relay       *outbox.Relay
}

func runWorker(name string) error {
	topic, dsn := os.Getenv("DELIVERY_TOPIC"), os.Getenv("DELIVERY_DSN")
	db, err := postgres.Open(dsn, 12)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("worker", name)
	health := postgres.NewHealthCheck(dsn, log)
	go health.Run(context.Background())
	b := broker.Kafka(kafka.Config{
		Brokers: strings.Split(os.Getenv("DELIVERY_BROKERS"), ","), ClientID: "test", Instance: uuid.NewString()[:8],
		GroupBytes: []int{4 << 10, 1 << 20}[rand.IntN(2)], // with the smaller limit, few messages are in flight and the rest wait in Kafka
		Member:     kafka.MemberMetadata{Host: name, Since: time.Now()},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, os.Getenv("DELIVERY_KAFKA"))
		},
	}, broker.KafkaOptions{Partitions: deliveryPartitions, Now: time.Now, Unavailable: health.Failing, Log: log, Watermill: watermill.NopLogger{}})
	b.(broker.LocalDelivery).HandOver(topic, topic)
	senders, err := b.Senders(func() int { return kafka.DefaultLimit })
	if err != nil {
		return err
	}
	preferred := b.(broker.LocalDelivery).Shards
	if rand.IntN(3) == 0 { // the messages of a shard then reach another process
		preferred = nil
	}
	w := &deliveryWorker{name: name, topic: topic, db: db}
	w.relay = outbox.NewRelay(db, func() outbox.Sender { return marking{senders().(outbox.Local)} }, log, outbox.Options{
		DSN: dsn, Refused: b.Refused, TopicFault: b.TopicFault, Ping: b.Ping, Batch: 20, Local: []string{topic}, Preferred: preferred,
	})
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the test has ended
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	relaying, endRelay := context.WithCancel(context.Background())
	defer endRelay()
	var running sync.WaitGroup
	running.Go(func() { w.relay.Run(relaying) })
	for stopping.Err() == nil {
		s, err := b.Subscriber(topic, messaging.Subscription{Run: 64})
		if err != nil {
			return err
		}
		messages, err := s.Subscribe(context.Background(), topic)
		if err != nil {
			return err
		}
		var handling sync.WaitGroup
		handling.Go(func() {
			for msg := range messages {
				handling.Go(func() { w.handle(msg) })
			}
		})
		select { // the subscriber is closed and opened again at random times
		case <-stopping.Done():
		case <-time.After(8*time.Second + rand.N(30*time.Second)):
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	endRelay() // after the subscriber, as in an instance
	running.Wait()
	return nil
}

func (w *deliveryWorker) handle(msg *message.Message) {
	turn := cqrs.TurnFromContext(msg.Context()) // the next messages have started too, and wait below
	switch n := rand.IntN(4000); {
	case n == 0: // longer than a lost partition waits for its handlers, even though the context is done
		time.Sleep(7 * time.Second)
	case n < 4:
		time.Sleep(rand.N(3 * time.Second))
	case n < 100:
		time.Sleep(rand.N(200 * time.Millisecond))
	default:
		time.Sleep(rand.N(4 * time.Millisecond))
	}
	if rand.IntN(25) == 0 || turn.Wait(msg.Context()) != nil {
		msg.Nack()
		return
	}
	if err := w.process(msg); err != nil || rand.IntN(50) == 0 {
		msg.Nack() // possibly after the message was processed
		return
	}
	msg.Ack()
}

func (w *deliveryWorker) process(msg *message.Message) error {
	key := msg.Metadata[cqrs.HeaderKey]
	seq, err := strconv.Atoi(string(msg.Payload))
	if err != nil {
		return err
	}
	way := cmp.Or(msg.Metadata[localMark], byKafka)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx, unit := txn.NewUnit(ctx, w.db)
	defer unit.Close()
	first, sends := strings.CutPrefix(key, "first-")
	second, number := secondOf(first, seq)
	var claim *outbox.Claim // claimed before or after the lock of the row
	early := rand.IntN(2) == 0
	if sends && early {
		claim = w.claim(second)
	}
	defer func() {
		if claim != nil {
			claim.Release()
		}
	}()
	tx, err := txn.FromContext(ctx)
	if err != nil {
		return err
	}
	if err := w.record(ctx, tx, key, seq, msg.UUID, way); err != nil {
		if errors.Is(err, errDuplicate) {
			return nil
		}
		return err
	}
	// The handler sends a message, as a step of a saga does. The row of test_keys is locked, so the sent messages are in order too.
	if sends && !early {
		claim = w.claim(second)
	}
	next := numbered(second, number)
	switch {
	case !sends:
	case claim != nil && rand.IntN(2) == 0:
		if err := w.record(ctx, tx, second, number, next.UUID, inline); err != nil {
			return err
		}
	default:
		next.SetContext(ctx)
		if err := outbox.NewPublisher(0, nil).Publish(w.topic, next); err != nil {
			return err
		}
	}
	if claim != nil {
		if err := claim.Confirm(ctx, w.topic, cqrs.Meta{}); err != nil {
			return err
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		if rand.IntN(500) == 0 {
			time.Sleep(6 * time.Second) // longer than a lease
		}
	}
	if err := txn.Commit(ctx, w.db, []*txn.Unit{unit}); err != nil {
		return err
	}
	if sent := outbox.MessagesFromContext(ctx); claim != nil && len(sent) > 0 {
		claim.HandOver(sent[0])
	}
	w.relay.Wake()
	return nil
}

// secondOf returns the key and number of the message that the handler of message seq sends. Half of these keys have many messages. The other half
// have few messages, and claims do not avoid them.
func secondOf(first string, seq int) (key string, number int) {
	if seq%2 == 1 {
		return "second-" + first, (seq + 1) / 2
	}
	return fmt.Sprint("second-", first, "-", seq/2%calmKeys), (seq/2-1)/calmKeys + 1
}

func (w *deliveryWorker) claim(key string) *outbox.Claim {
	if rand.IntN(3) == 0 {
		return nil // so that messages reach the handler in all ways
	}
	return w.relay.Claim(w.topic, key)
}

// record records that a message is handled, and whether it is the next message of its key.
func (w *deliveryWorker) record(ctx context.Context, tx *sqlx.Tx, key string, seq int, id, way string) error {
	result, err := tx.ExecContext(ctx, `INSERT INTO test_inbox VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, way)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, errDuplicate)
	}
	var last int
	if err := tx.GetContext(ctx, &last, `SELECT seq FROM test_keys WHERE key = $1 FOR UPDATE`, key); err != nil {
		return err
	}
	if seq != last+1 {
		if _, err := tx.ExecContext(ctx, `INSERT INTO test_faults VALUES ($1, $2, $3, $4, $5)`, key, seq, last, way, w.name); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE test_keys SET seq = $2 WHERE key = $1`, key, max(seq, last))
	return err
}

var errDuplicate = errors.New("duplicate")

func numbered(key string, seq int) *message.Message {
	msg := message.NewMessage(fmt.Sprint(key, "/", seq), []byte(strconv.Itoa(seq)))
	msg.Metadata[cqrs.HeaderID], msg.Metadata[cqrs.HeaderKey] = msg.UUID, key
	return msg
}

const (
	deliveryPartitions = 8 // divides the 16 shards
	deliveryWorkers    = 3
	firstKeys          = 8
	calmKeys           = 20 // of each writer
	singleKeys         = 8
	deliveryWriters    = 4
	maxDeliveryBacklog = 30 // of a key: with a longer backlog, nearly all messages pass through Kafka
)

// deliveryProcess is a worker process that is stopped and started.
type deliveryProcess struct {
	t     *testing.T
	name  string
	env   []string
	cmd   *exec.Cmd
	stdin io.Closer

	toKafka, toPostgres *kittest.Network
}

func (p *deliveryProcess) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "-test.run=^$")
	p.cmd.Env = append(os.Environ(), append(p.env, "DELIVERY_WORKER="+p.name)...)
	p.cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		p.cmd.Stderr = nil
	}
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, p.cmd.Start())
}

func (p *deliveryProcess) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) } // the process may have ended

func (p *deliveryProcess) kill() {
	p.signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// stop stops the process gracefully.
func (p *deliveryProcess) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	timer := time.AfterFunc(kittest.Patience, func() { p.signal(syscall.SIGQUIT) })
	err := p.cmd.Wait()
	timer.Stop()
	require.NoError(p.t, err, "a worker did not stop by itself")
}

// The messages of a key are first processed in the order of their rows, and none is lost: whatever happens to the processes that relay and handle the
// messages, and whether or not the messages pass through Kafka.
func TestLocalDeliveryKeepsKeyOrder(t *testing.T) {
	lasts := 16 * time.Second
	if kittest.LongTests() {
		lasts = 4 * time.Minute
	}
	db, dsn := kittest.Database(t)
	brokers := kittest.Kafka(t)
	topic := "test." + uuid.NewString()
	_, err := kafka.EnsureTopics(t.Context(), kafka.Config{Brokers: brokers}, []string{topic}, deliveryPartitions)
	require.NoError(t, err)
	_, err = db.Exec(deliveryTables)
	require.NoError(t, err)
	var keys []string
	for i := range firstKeys {
		keys = append(keys, fmt.Sprint("first-", i))
	}
	for i := range singleKeys {
		keys = append(keys, fmt.Sprint("single-", i))
	}
	_, err = db.Exec(`INSERT INTO test_keys SELECT unnest($1::text[]), 0 UNION SELECT 'second-' || generate_series(0, $2), 0
		UNION SELECT 'second-' || i || '-' || j, 0 FROM generate_series(0, $2) i, generate_series(0, $3) j`, keys, firstKeys-1, calmKeys-1)
	require.NoError(t, err)

	var workers []*deliveryProcess
	for i := range deliveryWorkers {
		toPostgres, through := kittest.ToPostgres(t, dsn)
		p := &deliveryProcess{t: t, name: fmt.Sprint("worker-", i), toKafka: kittest.NewNetwork(t, brokers[0]), toPostgres: toPostgres}
		p.env = []string{"DELIVERY_TOPIC=" + topic, "DELIVERY_DSN=" + through, "DELIVERY_BROKERS=" + strings.Join(brokers, ","), "DELIVERY_KAFKA=" + p.toKafka.Address}
		p.start()
		t.Cleanup(func() { p.kill() })
		workers = append(workers, p)
	}

	ctx, end := context.WithTimeout(t.Context(), lasts)
	defer end()
	notifier := outbox.NewNotifier(db)
	go notifier.Run(t.Context())
	var written [firstKeys + singleKeys]atomic.Int64
	var writing sync.WaitGroup
	for w := range deliveryWriters {
		writing.Go(func() {
			for ctx.Err() == nil {
				i := rand.IntN(len(keys)/deliveryWriters)*deliveryWriters + w // a key of this writer only
				var processed int64
				if err := db.Get(&processed, `SELECT seq FROM test_keys WHERE key = $1`, keys[i]); err != nil {
					t.Error(err)
					return
				}
				if written[i].Load() > processed+maxDeliveryBacklog {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				for range 1 + rand.IntN(6) {
					unitCtx, unit := txn.NewUnit(context.Background(), db)
					n := written[i].Load()
					more := 1 + rand.Int64N(3)
					for seq := n + 1; seq <= n+more; seq++ {
						msg := numbered(keys[i], int(seq))
						msg.SetContext(unitCtx)
						if err := outbox.NewPublisher(0, nil).Publish(topic, msg); err != nil {
							t.Error(err)
							return
						}
					}
					if err := txn.Commit(context.Background(), db, []*txn.Unit{unit}); err != nil {
						t.Error(err)
						return
					}
					written[i].Add(more)
					notifier.NotifyAll()
					time.Sleep(rand.N(8 * time.Millisecond))
				}
				time.Sleep(rand.N(500 * time.Millisecond))
				if rand.IntN(100) == 0 {
					time.Sleep(time.Second) // let the backlog drain
				}
			}
		})
	}
	disturb(ctx, t, workers)
	writing.Wait()

	total := 0
	for i := range written {
		total += int(written[i].Load())
		if i < firstKeys {
			total += int(written[i].Load())
		}
	}
	kittest.Eventually(t, func() error {
		var processed, left, faults int
		if err := db.QueryRow(`SELECT (SELECT count(*) FROM test_inbox), (SELECT count(*) FROM outbox), (SELECT count(*) FROM test_faults)`).Scan(&processed, &left, &faults); err != nil {
			return err
		}
		if faults == 0 && (processed < total || left > 0) {
			return fmt.Errorf("%d of %d processed, %d rows in the outbox", processed, total, left)
		}
		return nil
	})
	var faults []string
	require.NoError(t, db.Select(&faults, `SELECT key || ': ' || seq || ' after ' || after || ' by way of ' || way || ' by ' || worker FROM test_faults LIMIT 20`))
	require.Empty(t, faults, "messages were first processed out of order")
	ways := map[string]int{}
	var counted []struct {
		Way string
		N   int
	}
	require.NoError(t, db.Select(&counted, `SELECT way, count(*) AS n FROM test_inbox GROUP BY way`))
	processed := 0
	for _, c := range counted {
		ways[c.Way] = c.N
		processed += c.N
	}
	require.Equal(t, total, processed)
	for i, key := range keys {
		var seq int64
		require.NoError(t, db.Get(&seq, `SELECT seq FROM test_keys WHERE key = $1`, key))
		require.Equal(t, written[i].Load(), seq, key)
	}
	t.Log(total, "messages:", ways)
	// A third of the keys have their relay and their handler in one process while there is no rebalance.
	for way, least := range map[string]int{byKafka: total / 20, byOffer: total / 100, byClaim: total / 500, inline: total / 500} {
		require.Greater(t, ways[way], least, "too few by way of %s to prove anything", way)
	}
	for _, w := range workers {
		w.stop()
	}
}

// disturb kills, stops, pauses and starts workers until ctx is done. It does each of these once, in random order, before it repeats any of them.
func disturb(ctx context.Context, t *testing.T, workers []*deliveryProcess) {
	t.Helper()
	stopKafka, startKafka := os.Getenv("KAFKA_STOP"), os.Getenv("KAFKA_START")
	disturbances := []func(w *deliveryProcess){
		func(w *deliveryProcess) {
			t.Log("kill", w.name)
			w.kill()
			time.Sleep(rand.N(time.Second))
			w.start()
		},
		func(w *deliveryProcess) {
			t.Log("stop", w.name)
			w.stop()
			w.start()
		},
		func(w *deliveryProcess) {
			t.Log("pause", w.name)
			w.signal(syscall.SIGSTOP)
			time.Sleep(7 * time.Second) // longer than a lease and a member's session
			w.signal(syscall.SIGCONT)
		},
		func(w *deliveryProcess) { cutOff(ctx, t, w.name+" from Kafka", w.toKafka) },
		func(w *deliveryProcess) { cutOff(ctx, t, w.name+" from PostgreSQL", w.toPostgres) },
		func(w *deliveryProcess) { cutOff(ctx, t, w.name+" from both", w.toKafka, w.toPostgres) },
	}
	if kittest.LongTests() && kittest.Real() && stopKafka != "" && startKafka != "" {
		disturbances = append(disturbances, func(*deliveryProcess) {
			t.Log("stop Kafka")
			require.NoError(t, exec.Command("sh", "-c", stopKafka).Run())
			kittest.Stopped(t, strings.Split(os.Getenv("KAFKA_BROKERS"), ",")...)
			time.Sleep(rand.N(8 * time.Second))
			require.NoError(t, exec.Command("sh", "-c", startKafka).Run())
		})
	}
	for {
		for _, i := range rand.Perm(len(disturbances)) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(500*time.Millisecond + rand.N(4*time.Second)):
			}
			disturbances[i](workers[rand.IntN(len(workers))])
		}
	}
}

// cutOff disconnects a process from servers, usually for longer than a lease and a member's session.
func cutOff(ctx context.Context, t *testing.T, what string, networks ...*kittest.Network) {
	t.Helper()
	lasts, dropped := rand.N(20*time.Second), rand.IntN(2) == 0
	t.Log("cut off", what, "for", lasts, "connections are lost:", dropped)
	for _, n := range networks {
		n.Cut()
		defer n.Heal()
		if dropped {
			n.Drop()
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(lasts):
	}
}

// All keys of a shard are in the partition that the shard's number gives, if the number of partitions divides the number of shards.
func TestShardsAreThoseOfThePartitions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.StringN(1, -1, -1).Draw(rt, "key")
		for partitions := int32(1); partitions <= outbox.Shards; partitions *= 2 {
			partition, err := sarama.NewHashPartitioner("").Partition(&sarama.ProducerMessage{Key: sarama.StringEncoder(key)}, partitions)
			require.NoError(rt, err)
			require.Equal(rt, int32(outbox.ShardOf("t", key)-outbox.FirstShard)%partitions, partition)
		}
	})
}
