package keyordered

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
)

// Config of a Subscriber. What is zero is replaced by the default.
type Config struct {
	Brokers []string
	Group   string

	// Sarama is the client's configuration. Default: DefaultSarama.
	Sarama *sarama.Config

	// Unmarshaler makes messages of records. A record for which it fails is handed out with its bytes and the error under MetadataError.
	// Default: that of Watermill's Kafka publisher, wkafka.DefaultMarshaler.
	Unmarshaler wkafka.Unmarshaler

	// Key returns the key of a record. Messages of one key are handed out in order, one at a time unless Run is more; a message whose key is
	// empty waits for no other message. Default: the record's key.
	Key func(*sarama.ConsumerMessage) string

	// Skip tells which records need not be delivered. They count as acknowledged when they are received, whatever is in flight. Optional.
	Skip func(*sarama.ConsumerMessage) bool

	// MaxInFlight is how many messages of a partition may be in flight, those that wait for an earlier message of their key included. Default 256.
	MaxInFlight int

	// MaxAhead is how many messages after the lowest unacknowledged one of a partition are handed out. So many may be redelivered after a crash.
	// Default 10,000.
	MaxAhead int

	// MaxBytes bounds the messages in flight of all partitions together. Default 64 MiB.
	MaxBytes int

	// NackPause is the time until a nacked message is handed out again; it doubles each time, up to a hundred times as long. Messages
	// of other keys go on meanwhile. Default 100 ms.
	NackPause time.Duration

	// Grace is how long messages in flight may take when their partition is taken away; then their contexts are cancelled. It must be
	// well below the group's rebalance timeout. Default 3 s.
	Grace time.Duration

	// CloseGrace is the same when the subscriber is closed. Default 8 s.
	CloseGrace time.Duration

	// Run is how many messages of one key that have queued up are handed out at once. More than one needs Link and WithLink, by which the handlers
	// know the order. Default 1.
	Run int

	// Link is called for each message with the link of the message before it with the same key, or nil if none is in flight. WithLink puts the
	// result into the message's context. Done is called when the message is acknowledged. Optional.
	Link     func(before any) (link any, done func())
	WithLink func(ctx context.Context, link any) context.Context

	// KeepOffline says that a member keeps its partitions while it does not reach the group's coordinator, goes on with what it has received, and takes what
	// it is offered. Another member may have been given the partitions meanwhile and handle the same records, so handlers must refuse what was handled already.
	KeepOffline func() bool

	// Unavailable tells whether the handlers cannot work, for example because they do not reach their database. Meanwhile a member leaves its
	// group, so that other members handle its messages. The only member of a group stays, because joining again takes time. Optional.
	Unavailable func() bool

	// OnMissing is called while a member has partitions of a topic that does not exist any more, first often, then each thirtieth
	// CheckTopicEvery. Optional.
	OnMissing func(topic string)

	// CheckTopicEvery is how often a member compares the id of its topic with the one that its offsets are committed with, and the number of its partitions with
	// the one that it knows. Records of a recreated topic may be handled out of order for so long; none is left out. Default: 2 s.
	CheckTopicEvery time.Duration

	Logger watermill.LoggerAdapter
}

// retryEvery is the pause after a failure to reach the brokers. logEvery is the shortest time between two log lines about such failures.
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

// DefaultSarama is a client of Kafka 2.8 or later that reads committed records only. A group without offsets starts at the oldest record, so that
// no message is skipped. The rebalance timeout leaves time for Grace.
func DefaultSarama() *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0 // the first with ids of topics
	s.ClientID = "watermill"
	s.Consumer.Return.Errors = true
	s.Consumer.IsolationLevel = sarama.ReadCommitted
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	return s
}
