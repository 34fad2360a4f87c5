package chaos

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// fault is one kind of trouble. What is chosen by chance is chosen in prepare, in one goroutine, so that a seed replays.
type fault struct {
	name    string
	prepare func(s *stage) (act func())
}

var faults = []fault{
	{name: "kill -9 of an instance", prepare: func(s *stage) func() {
		i, busy := s.one()
		return func() {
			busy.Lock()
			defer busy.Unlock()
			i.Kill()
			time.Sleep(2 * time.Second)
			i.Again()
		}
	}},
	{name: "SIGTERM of an instance", prepare: func(s *stage) func() {
		i, busy := s.one()
		return func() {
			busy.Lock()
			defer busy.Unlock()
			i.Terminate()
			i.Again()
		}
	}},
	{name: "an instance stopped for 8 s", prepare: func(s *stage) func() {
		i, busy := s.one()
		return func() {
			busy.Lock()
			defer busy.Unlock()
			i.Signal(syscall.SIGSTOP)
			time.Sleep(8 * time.Second)
			i.Signal(syscall.SIGCONT)
		}
	}},
	{name: "Kafka stopped for 30 s", prepare: func(s *stage) func() {
		return func() { s.outage("stop", "kafka", 30*time.Second) }
	}},
	{name: "Kafka killed", prepare: func(s *stage) func() {
		return func() { s.outage("kill", "kafka", time.Second) }
	}},
	{name: "PostgreSQL restarted", prepare: func(s *stage) func() {
		return func() { s.outage("stop", "postgres", time.Second) }
	}},
	{name: "PostgreSQL killed", prepare: func(s *stage) func() {
		return func() { s.outage("kill", "postgres", time.Second) }
	}},
	{name: "connections cut", prepare: func(s *stage) func() {
		times := 2 + s.chance.IntN(3)
		return func() {
			for range times {
				for _, n := range s.networks {
					n.Drop()
				}
				time.Sleep(time.Second)
			}
		}
	}},
	{name: "a connection hangs", prepare: func(s *stage) func() {
		n := s.networks[s.chance.IntN(3)]
		return func() {
			n.Cut()
			time.Sleep(8 * time.Second)
			n.Heal()
		}
	}},
	{name: "an instance cut off from PostgreSQL for 20 s", prepare: func(s *stage) func() {
		n := s.networks[s.chance.IntN(3)]
		return func() {
			n.Cut()
			n.Drop()
			time.Sleep(20 * time.Second) // long enough to leave its groups
			n.Heal()
		}
	}},
	faultSettings("payments down", "payments", `{"down":true}`, `{"down":false}`, 6*time.Second),
	faultSettings("payments slow", "payments", `{"latency":"700ms"}`, `{"latency":"0s"}`, 6*time.Second),
	faultSettings("payments answer 500", "payments", `{"failure_rate":0.5}`, `{"failure_rate":0}`, 6*time.Second),
	faultSettings("payments done, but too late", "payments", `{"latency":"2500ms"}`, `{"latency":"0s"}`, 5*time.Second),
	faultSettings("payments carried out twice", "payments", `{"twice":true}`, `{"twice":false}`, 8*time.Second),
	faultSettings("carrier down", "carrier", `{"down":true}`, `{"down":false}`, 6*time.Second),
	{name: "every message twice", prepare: func(s *stage) func() {
		return func() { s.republish(sarama.OffsetNewest, 8*time.Second) }
	}},
	{name: "old messages replayed", prepare: func(s *stage) func() {
		return func() { s.republish(sarama.OffsetOldest, 4*time.Second) }
	}},
	{name: "groups rebalanced", prepare: func(s *stage) func() {
		return s.rebalance
	}},
	{name: "a topic deleted", prepare: func(s *stage) func() {
		return s.external.deleted
	}},
	{name: "partitions added to a topic", prepare: func(s *stage) func() {
		topics := s.topics()
		topic := topics[s.chance.IntN(len(topics))]
		return func() { s.grow(topic) }
	}},
	{name: "an ACL revoked", prepare: func(s *stage) func() {
		topics := s.topics()
		topic := topics[s.chance.IntN(len(topics))]
		return func() { s.revoke(topic, 6*time.Second) }
	}},
	{name: "a row locked for 10 s", prepare: func(s *stage) func() {
		return func() { s.lockRows(10 * time.Second) }
	}},
	{name: "hostile records", prepare: func(s *stage) func() {
		return s.hostile
	}},
	{name: "transactions aborted", prepare: func(s *stage) func() {
		return s.aborted
	}},
	{name: "Kafka answers after 8 s", prepare: func(s *stage) func() {
		return func() { s.pauseKafka(8 * time.Second) }
	}},
}

// one chooses an instance; who does something with its process locks it meanwhile.
func (s *stage) one() (*harness.Instance, *sync.Mutex) {
	n := s.chance.IntN(len(s.instances))
	return s.instances[n], &s.busy[n]
}

func faultSettings(name, service, on, off string, d time.Duration) fault {
	return fault{name: name, prepare: func(s *stage) func() {
		return func() {
			s.sandbox.SetFaults(service, on)
			time.Sleep(d)
			s.sandbox.SetFaults(service, off)
		}
	}}
}

var ctl sync.Mutex // one outage at a time: a database that is stopped twice is started twice

// outage stops or kills a service and starts it again.
func (s *stage) outage(how, service string, d time.Duration) {
	ctl.Lock()
	defer ctl.Unlock()
	run := func(verb string) {
		var out []byte
		var err error
		for range 3 { // on a busy computer it may take longer than the command waits
			if out, err = exec.Command("bash", "-c", os.Getenv("CHAOS_CTL")+" "+verb+" "+service).CombinedOutput(); err == nil { // the tester's own
				return
			}
		}
		require.NoError(s.t, err, "%s %s: %s", verb, service, out)
	}
	run(how)
	kittest.Stopped(s.t, s.addresses(service)...)
	time.Sleep(d)
	run("start")
}

// addresses are those of a service.
func (s *stage) addresses(service string) []string {
	if service == "kafka" {
		return s.brokers
	}
	dsn, err := url.Parse(os.Getenv("POSTGRES_DSN"))
	require.NoError(s.t, err)
	return []string{dsn.Host}
}

// topics are all of ours that carry something with an effect.
func (s *stage) topics() (names []string) {
	for _, name := range []string{
		"commands.orders", "commands.inventory", "commands.payments", "commands.shipments", "commands.couriers", "commands.sagas",
		"events.orders", "events.inventory", "events.payments", "events.shipments",
	} {
		names = append(names, s.prefix+"."+name)
	}
	return names
}

func (s *stage) kafka() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V2_8_0_0
	c.Producer.Return.Successes = true
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()} // as the service's members
	return c
}

const copied = "chaos_copy"

// republish copies every record of every topic to the end of its partition, from an offset on, for a while: those that arrive meanwhile, or old
// ones. A copy is not copied again. Copies that fail because Kafka is away as well are left out. A key that has moved because partitions were added keeps the partition of the
// record, or the audit would find an old event behind a new one.
func (s *stage) republish(from int64, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	config := s.kafka()
	config.Producer.Partitioner = sarama.NewManualPartitioner
	client, err := sarama.NewClient(s.brokers, config)
	if err != nil {
		return
	}
	defer client.Close()
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return
	}
	defer producer.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return
	}
	defer consumer.Close()
	var readers sync.WaitGroup
	for _, topic := range s.topics() {
		partitions, err := client.Partitions(topic)
		if err != nil {
			continue
		}
		for _, partition := range partitions {
			if from == sarama.OffsetOldest && partition%4 != 0 {
				continue // a part of the past is enough
			}
			records, err := consumer.ConsumePartition(topic, partition, from)
			if err != nil {
				continue
			}
			readers.Go(func() {
				defer records.AsyncClose()
				for {
					select {
					case <-ctx.Done():
						return
					case r := <-records.Messages():
						if r == nil {
							return
						}
						if m := copyOf(r); m != nil {
							_, _, _ = producer.SendMessage(m)
						}
					}
				}
			})
		}
	}
	readers.Wait()
}

func copyOf(r *sarama.ConsumerMessage) *sarama.ProducerMessage {
	m := &sarama.ProducerMessage{Topic: r.Topic, Partition: r.Partition, Key: sarama.ByteEncoder(r.Key), Value: sarama.ByteEncoder(r.Value)}
	for _, h := range r.Headers {
		if string(h.Key) == copied {
			return nil
		}
		m.Headers = append(m.Headers, *h)
	}
	m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(copied), Value: []byte("1")})
	return m
}

// grow adds a partition to a topic, unless Kafka is away: the other fault of this round.
func (s *stage) grow(topic string) {
	a, err := sarama.NewClusterAdmin(s.brokers, s.kafka())
	if err != nil {
		return
	}
	defer a.Close() // nothing is pending
	described, err := a.DescribeTopics([]string{topic})
	if err != nil || described[0].Err != sarama.ErrNoError {
		return
	}
	n := int32(len(described[0].Partitions)) // a few
	s.env.Grown.Store(true)
	if err := a.CreatePartitions(topic, n+1, nil, false); err == nil {
		s.t.Logf("%s has %d partitions now", topic, n+1)
	}
}

// rebalance joins the consumer groups and leaves them, every few seconds. The guest handles nothing.
func (s *stage) rebalance() {
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		var clients sync.WaitGroup
		for _, topic := range s.topics() {
			if strings.Contains(topic, ".events.") {
				continue
			}
			clients.Go(func() {
				group, err := sarama.NewConsumerGroup(s.brokers, topic, s.kafka()) // groups of commands have their topic's name
				if err != nil {
					return
				}
				defer group.Close()
				_ = group.Consume(ctx, []string{topic}, client{})
			})
		}
		clients.Wait()
		cancel()
		time.Sleep(500 * time.Millisecond)
	}
}

type client struct{}

func (client) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (client) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (client) ConsumeClaim(session sarama.ConsumerGroupSession, _ sarama.ConsumerGroupClaim) error {
	<-session.Context().Done()
	return nil
}

// wholeRun leaves a transaction open, and begins it again when it is cut.
func (s *stage) wholeRun() (done func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			tx, err := s.db.BeginTx(ctx, nil)
			if err == nil {
				_, err = tx.ExecContext(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
				for err == nil && ctx.Err() == nil {
					var n int
					err = tx.QueryRowContext(ctx, `SELECT 1 FROM (SELECT FROM events LIMIT 1) e`).Scan(&n)
					time.Sleep(500 * time.Millisecond)
				}
				_ = tx.Rollback()
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
