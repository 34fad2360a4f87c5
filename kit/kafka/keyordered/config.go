package keyordered

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
)

// Config is the configuration of a Subscriber. A zero field has the default that its comment names.
type Config struct {
	Brokers []string
	Group   string

	// Sarama is the client's configuration. Default: DefaultSarama.
	Sarama *sarama.Config

	// Unmarshaler converts records into messages. If it fails for a record, the record is delivered as a message with the record's bytes, and the
	// error under MetadataError. Default: wkafka.DefaultMarshaler, the format of Watermill's Kafka publisher.
	Unmarshaler wkafka.Unmarshaler

	// Key returns the key of a record. Messages of a key are delivered in order, and one at a time unless Run is greater than 1. A message with an
	// empty key waits for no other message. Default: the record's key.
	Key func(*sarama.ConsumerMessage) string

	// Skip tells whether a record need not be delivered. A skipped record counts as acknowledged when it is received. Default: no record is skipped.
	Skip func(*sarama.ConsumerMessage) bool

	// MaxInFlight is the maximum number of messages of a partition in flight, including those that wait for an earlier message of their key. Default
	// 256.
	MaxInFlight int

	// MaxAhead is the maximum number of records of a partition from the lowest unacknowledged one on. At most so many are delivered again after a
	// crash. Default 10,000.
	MaxAhead int

	// MaxBytes is the maximum number of bytes in flight of all partitions of a topic together. Default 64 MiB.
	MaxBytes int

	// NackPause is the time until a nacked message is delivered again. It doubles with each nack of the message, up to a hundred times NackPause.
	// Messages of other keys are delivered meanwhile. Default 100 ms.
	NackPause time.Duration

	// Grace is how long the messages in flight of a partition may take after the partition was revoked. Then their contexts are cancelled. It must be
	// well below the group's rebalance timeout. Default 3 s.
	Grace time.Duration

	// CloseGrace is the same as Grace for the time after Close. Default 8 s.
	CloseGrace time.Duration

	// Run is the maximum number of messages of a key that are delivered at once. More than 1 requires Link and WithLink, by which the handlers know
	// the order. Default 1.
	Run int

	// Link is called for each message, with the link of the previous message of its key, or nil if no message of the key is in flight. It returns the
	// message's link, which WithLink puts into the message's context, and a function that is called when the message is acknowledged. Optional.
	Link     func(before any) (link any, done func())
	WithLink func(ctx context.Context, link any) context.Context

	// KeepOffline tells whether a member keeps its partitions while it cannot reach the group's coordinator. The member then continues with the
	// records that it has received and with the messages that it is offered. Meanwhile the group may have assigned the partitions to another member,
	// which handles the same records, so handlers must reject messages that were handled before. Default: false.
	KeepOffline func() bool

	// Unavailable tells whether the handlers cannot work, for example because they do not reach their database. Meanwhile a member leaves its
	// group, so that other members handle its messages. The only member of a group stays, because joining again takes time. Optional.
	Unavailable func() bool

	// OnMissing is called while a member has partitions of a topic that does not exist any more: at the second to ninth check in a row that misses
	// the topic, then at every thirtieth. CheckTopicEvery is the time between checks. Optional.
	OnMissing func(topic string)

	// CheckTopicEvery is how often a member checks whether its topic was recreated or has more partitions. Until then, records of a recreated topic
	// may be handled out of order; none is skipped. Default 2 s.
	CheckTopicEvery time.Duration

	Logger watermill.LoggerAdapter
}

// retryEvery is the pause after a failure to reach the brokers. logEvery is the minimum time between two log lines about such failures.
const (
	retryEvery = time.Second
	logEvery   = 30 * time.Second
)

func (c *Config) complete() error {
	switch {
	case len(c.Brokers) == 0:
		return errors.New("keyordered: no brokers")
	case c.Group == "":
		return errors.New("keyordered: no group")
	case (c.Link == nil) != (c.WithLink == nil):
		return errors.New("keyordered: Link and WithLink go together")
	case c.Run > 1 && c.Link == nil:
		return errors.New("keyordered: Run needs Link and WithLink")
	}
	if c.Sarama == nil {
		c.Sarama = DefaultSarama()
	}
	if c.Unmarshaler == nil {
		c.Unmarshaler = wkafka.DefaultMarshaler{}
	}
	if c.Key == nil {
		c.Key = func(r *sarama.ConsumerMessage) string { return string(r.Key) }
	}
	if c.Skip == nil {
		c.Skip = func(*sarama.ConsumerMessage) bool { return false }
	}
	if c.Run == 0 {
		c.Run = 1
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 256
	}
	if c.MaxAhead == 0 {
		c.MaxAhead = 10_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.NackPause == 0 {
		c.NackPause = 100 * time.Millisecond
	}
	if c.Grace == 0 {
		c.Grace = 3 * time.Second
	}
	if c.CloseGrace == 0 {
		c.CloseGrace = 8 * time.Second
	}
	if c.CheckTopicEvery == 0 {
		c.CheckTopicEvery = 2 * time.Second
	}
	if c.OnMissing == nil {
		c.OnMissing = func(string) {}
	}
	if c.Unavailable == nil {
		c.Unavailable = func() bool { return false }
	}
	if c.KeepOffline == nil {
		c.KeepOffline = func() bool { return false }
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c.Sarama.Validate()
}

// DefaultSarama returns the configuration of a client for Kafka 2.8 or later that reads only committed records. A group without offsets starts at the
// oldest record, so that no record is skipped. The rebalance timeout of 10 s leaves time for Grace.
func DefaultSarama() *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0 // the first version with topic ids
	s.ClientID = "watermill"
	s.Consumer.Return.Errors = true
	s.Consumer.IsolationLevel = sarama.ReadCommitted
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	return s
}
