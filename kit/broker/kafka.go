package broker

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kafka/keyordered"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// KafkaOptions are the options of a Kafka broker, besides its connection.
type KafkaOptions struct {
	Partitions  int32            // the number of partitions of topics that Ensure creates
	Embedded    bool             // the broker runs in this process
	Now         func() time.Time // returns the timestamp of records
	Unavailable func() bool      // tells whether the handlers are unavailable (keyordered.Config.Unavailable). Optional
	Log         *slog.Logger
	Watermill   watermill.LoggerAdapter
}

// Kafka makes a Broker for Apache Kafka, with the batching producer and the key-ordered subscriber of package kafka. It connects when it is first
// used.
func Kafka(c kafka.Config, o KafkaOptions) Broker {
	return &inKafka{config: c, options: o, subscribers: map[string]*keyordered.Subscriber{}, local: map[string]string{}}
}

type inKafka struct {
	config  kafka.Config
	options KafkaOptions
	once    sync.Once // to warn only once that a limit could not be read

	mu          sync.Mutex
	subscribers map[string]*keyordered.Subscriber // by group
	local       map[string]string                 // the group that alone consumes a topic, by topic
	alone       map[string]*keyordered.Subscriber // the subscribers of the topics in local, by topic; nil: to be computed from both maps
}

func (*inKafka) Name() string { return "kafka" }

func (b *inKafka) Where() string {
	where := strings.Join(b.config.Brokers, ",")
	if b.options.Embedded {
		where += " (embedded)"
	}
	return where
}

func (b *inKafka) Ensure(ctx context.Context, topics []string) (limit int, err error) {
	limits, err := kafka.EnsureTopics(ctx, b.config, topics, b.options.Partitions)
	if len(limits.Unknown) > 0 {
		b.once.Do(func() {
			b.options.Log.Warn("Kafka does not tell max.message.bytes without DESCRIBE_CONFIGS; its default is assumed, so keep MAX_MESSAGE_BYTES below the topics' limit",
				"assumed", kafka.DefaultLimit, "topics", limits.Unknown)
		})
	}
	return limits.Bytes, err
}

func (b *inKafka) Missing(_ context.Context, topics []string) ([]string, error) {
	return kafka.MissingTopics(b.config, topics)
}

func (b *inKafka) LongestRetention(topics []string) (longest time.Duration, topic string, unknown []string, err error) {
	return kafka.LongestRetention(b.config, topics)
}

func (b *inKafka) Ping(ctx context.Context) error { return kafka.Ping(ctx, b.config) }

func (b *inKafka) Senders(limit func() int) (func() outbox.Sender, error) {
	return func() outbox.Sender {
		return kafka.NewLocalProducer(kafka.NewProducer(b.config, limit, b.options.Now), b.handlers)
	}, nil
}

// HandOver implements LocalDelivery.
func (b *inKafka) HandOver(topic, group string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.local[topic], b.alone = group, nil
}

// HandsOverAll implements LocalDelivery.
func (b *inKafka) HandsOverAll() bool {
	handlers := b.handlers()
	for topic, s := range handlers {
		if !s.HasAll(topic) {
			return false
		}
	}
	return len(handlers) > 0
}

// Shards implements LocalDelivery. All keys of a shard are in one partition only if the number of partitions divides the number of shards
// (outbox.ShardOf); otherwise Shards returns none.
func (b *inKafka) Shards() (shards []int16) {
	handlers := b.handlers()
	if len(handlers) == 0 {
		return nil
	}
	for shard := range outbox.Shards {
		handles := true
		for topic, s := range handlers {
			given := s.Given(topic)
			handles = handles && len(given) > 0 && outbox.Shards%len(given) == 0 && given[shard%len(given)]
		}
		if handles {
			shards = append(shards, int16(outbox.FirstShard+shard))
		}
	}
	return shards
}

// makeAgain recreates a topic with local delivery: its messages may bypass Kafka, so no failed send reveals that the topic is missing. The relay or
// the owner of a topic recreates the other topics.
func (b *inKafka) makeAgain(topic string) {
	b.mu.Lock()
	_, own := b.local[topic]
	b.mu.Unlock()
	if !own {
		return
	}
	b.options.Log.Error("a topic of the service does not exist any more, making it again", "topic", topic)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := kafka.EnsureTopics(ctx, b.config, []string{topic}, b.options.Partitions); err != nil {
		b.options.Log.Error("cannot make a topic again", "topic", topic, "error", err)
	}
}

// handsOver tells whether messages are delivered locally to a group.
func (b *inKafka) handsOver(group string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, to := range b.local {
		if to == group {
			return true
		}
	}
	return false
}

// handlers returns, by topic, the subscribers of this process whose group alone consumes the topic.
func (b *inKafka) handlers() map[string]*keyordered.Subscriber {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.alone == nil {
		b.alone = map[string]*keyordered.Subscriber{}
		for topic, group := range b.local {
			if s := b.subscribers[group]; s != nil {
				b.alone[topic] = s
			}
		}
	}
	return b.alone
}

func (*inKafka) Refused(err error) bool { return kafka.Refused(err) }

func (*inKafka) TopicFault(err error) bool { return kafka.TopicFault(err) }

func (b *inKafka) Subscriber(group string, o messaging.Subscription) (message.Subscriber, error) {
	s, err := kafka.NewSubscriber(b.config, group, kafka.SubscriberOptions{
		KeyHeader: o.KeyHeader, Run: o.Run, Skip: o.Skip, KeepOffline: func() bool { return b.handsOver(group) }, Unavailable: b.options.Unavailable, OnMissing: b.makeAgain,
	}, b.options.Watermill)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subscribers[group], b.alone = s, nil
	return s, nil
}

func (b *inKafka) ReadAll(ctx context.Context, topics []string, each func(topic string, msg *message.Message) error) error {
	return kafka.ReadAll(ctx, b.config, topics, each)
}

func (*inKafka) Close() error { return nil }
