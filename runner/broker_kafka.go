package runner

import (
	"context"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// inKafka is Apache Kafka, by the kit's producer and its key-ordered subscriber.
type inKafka struct {
	s      *Instance
	config kafka.Config
}

func (inKafka) Name() string { return "kafka" }

func (b inKafka) Where() string {
	where := strings.Join(b.s.Brokers, ",")
	if len(b.s.config.KafkaBrokers) == 0 {
		where += " (embedded)"
	}
	return where
}

func (b inKafka) Ensure(ctx context.Context, topics []string) (limit int, err error) {
	limits, err := kafka.EnsureTopics(ctx, b.config, topics, b.s.config.Partitions)
	if len(limits.Unknown) > 0 {
		b.s.sayOnce.Do(func() {
			b.s.log.Warn("Kafka does not tell max.message.bytes without DESCRIBE_CONFIGS; its default is assumed, so keep MAX_MESSAGE_BYTES below the topics' limit",
				"assumed", kafka.DefaultLimit, "topics", limits.Unknown)
		})
	}
	return limits.Bytes, err
}

func (b inKafka) LongestRetention(topics []string) (longest time.Duration, topic string, unknown []string, err error) {
	return kafka.LongestRetention(b.config, topics)
}

func (b inKafka) Ping(context.Context) error { return kafka.Ping(b.config) }

func (b inKafka) Senders(limit func() int) (func() outbox.Sender, error) {
	return func() outbox.Sender { return kafka.NewProducer(b.config, limit, b.s.brokerTime) }, nil
}

func (inKafka) Refused(err error) bool { return kafka.Refused(err) }

func (inKafka) TopicFault(err error) bool { return kafka.TopicFault(err) }

func (b inKafka) Subscriber(group, keyHeader string, announce func(*message.Message)) (message.Subscriber, error) {
	return kafka.NewSubscriber(b.config, group, keyHeader, announce, b.s.watermill)
}

func (b inKafka) ReadAll(ctx context.Context, topics []string, each func(topic string, msg *message.Message) error) error {
	return kafka.ReadAll(ctx, b.config, topics, each)
}
