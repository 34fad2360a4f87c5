// Package broker has the interface of a message broker for the relay and the consumers of a service, and two implementations: Apache Kafka,
// and tables of PostgreSQL.
package broker

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// Broker carries messages from the outbox to handlers. Kafka and Postgres make the kit's implementations; an adapter of another Watermill
// Pub/Sub can implement it too.
type Broker interface {
	// Name is the name of its circuit breaker, readiness check and line in the banner. Where is its address, for people.
	Name() string
	Where() string

	// Ensure creates missing topics, and returns the largest message that all accept, in bytes. If it fails for some topics only, TopicFault is
	// true for its error.
	Ensure(ctx context.Context, topics []string) (limit int, err error)

	// Missing returns those of the topics that do not exist or may not be seen. It creates nothing.
	Missing(ctx context.Context, topics []string) ([]string, error)

	// LongestRetention returns the topic that keeps messages longest, and how long. Unknown are topics whose settings may not be read.
	LongestRetention(topics []string) (longest time.Duration, topic string, unknown []string, err error)

	// Ping returns an error if the broker does not answer.
	Ping(ctx context.Context) error

	// Senders makes the senders of the relay's lanes. Refused is true for errors of messages that the broker will never accept, TopicFault for
	// errors of one topic. All other errors are faults of the broker.
	Senders(limit func() int) (func() outbox.Sender, error)
	Refused(err error) bool
	TopicFault(err error) bool

	// Subscriber makes the subscriber of a group. Messages of one key are delivered in order, one at a time unless the subscription allows more.
	Subscriber(group string, s messaging.Subscription) (message.Subscriber, error)

	// ReadAll reads topics from their beginning to their current end, the messages of one key in order.
	ReadAll(ctx context.Context, topics []string, each func(topic string, msg *message.Message) error) error

	// Close closes the connections.
	Close() error
}

// LocalDelivery is a Broker whose senders hand messages of some topics to a subscriber of this process, if that would receive them next. They do
// not pass through the broker then.
type LocalDelivery interface {
	// HandOver says that the messages of a topic are for one group only, which this process is a member of.
	HandOver(topic, group string)

	// HandsOverAll tells whether this process receives all messages of these topics.
	HandsOverAll() bool

	// Shards are the shards of the outbox whose keys this process handles, in all of these topics.
	Shards() []int16
}
