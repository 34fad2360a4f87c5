// Package broker has the interface of a message broker for the relay and the consumers of a service. It has two implementations: Apache Kafka, and
// tables of PostgreSQL.
package broker

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// Broker carries messages from the outbox to handlers. Kafka and Postgres make the implementations of this package; an adapter for another Watermill
// Pub/Sub can implement Broker too.
type Broker interface {
	// Name is the name of the broker's circuit breaker, of its readiness check, and of its line in the banner. Where is the broker's address, for
	// operators.
	Name() string
	Where() string

	// Ensure creates missing topics, and returns the largest message size, in bytes, that all topics accept. If Ensure fails only for some topics,
	// TopicFault returns true for its error.
	Ensure(ctx context.Context, topics []string) (limit int, err error)

	// Missing returns the topics that do not exist or that the user may not see. It creates none.
	Missing(ctx context.Context, topics []string) ([]string, error)

	// LongestRetention returns the topic with the longest retention, and the retention. Unknown are the topics whose configuration the user may not
	// read.
	LongestRetention(topics []string) (longest time.Duration, topic string, unknown []string, err error)

	// Ping returns an error if the broker does not answer.
	Ping(ctx context.Context) error

	// Senders returns a function that makes a sender for each lane of the relay. Limit returns the largest message size in bytes. For an error of a
	// sender, Refused tells whether the broker will never accept the message, and TopicFault whether only one topic is affected. Any other error is a
	// fault of the whole broker.
	Senders(limit func() int) (func() outbox.Sender, error)
	Refused(err error) bool
	TopicFault(err error) bool

	// Subscriber makes the subscriber of a consumer group. It delivers the messages of a key in order, and one at a time unless s.Run allows more.
	Subscriber(group string, s messaging.Subscription) (message.Subscriber, error)

	// ReadAll reads topics from their beginning to their current end, and calls each with every message. The messages of a key are read in order.
	ReadAll(ctx context.Context, topics []string, each func(topic string, msg *message.Message) error) error

	// Close closes the connections.
	Close() error
}

// LocalDelivery is a Broker whose senders can deliver the messages of some topics directly to a subscriber of this process, if that subscriber would
// receive them next. Such messages do not pass through the broker.
type LocalDelivery interface {
	// HandOver allows local delivery for a topic: only this group consumes the topic, and this process is a member of the group.
	HandOver(topic, group string)

	// HandsOverAll tells whether this process is assigned all partitions of the topics of HandOver.
	HandsOverAll() bool

	// Shards returns the shards of the outbox whose keys this process handles, in all topics of HandOver.
	Shards() []int16
}
