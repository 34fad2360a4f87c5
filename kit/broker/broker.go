// Package broker is the interface of the message broker that the relay and the consumers of a service use, and its two implementations:
// Apache Kafka, and tables of PostgreSQL.
package broker

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/postgres/outbox"
)

// Broker carries messages from the outbox to handlers. Kafka and Postgres make the two that the kit has; another one that Watermill knows
// implements this interface.
type Broker interface {
	// Name is the name of its circuit breaker, of its readiness check and of its line in the banner; Where is its address, for people.
	Name() string
	Where() string

	// Ensure makes the topics that are missing, and returns the largest message that they take, in bytes. If it fails for some of them only,
	// TopicFault is true for its error.
	Ensure(ctx context.Context, topics []string) (limit int, err error)

	// LongestRetention returns how long the topic, of some, that keeps messages longest keeps them. Unknown are topics whose
	// settings may not be read.
	LongestRetention(topics []string) (longest time.Duration, topic string, unknown []string, err error)

	// Ping returns an error if it does not answer.
	Ping(ctx context.Context) error

	// Senders makes the senders of the relay's workers. Refused is true for their errors that mean that a message will never be accepted,
	// TopicFault for those that mean that one topic cannot be sent to although the broker answers. All other errors are faults of the broker.
	Senders(limit func() int) (func() outbox.Sender, error)
	Refused(err error) bool
	TopicFault(err error) bool

	// Subscriber makes the subscriber of a group. Messages of one key come in order, one at a time; the key is that of the header
	// keyHeader, if they have it, else their own. Announce receives messages that wait for others of their key.
	Subscriber(group, keyHeader string, announce func(*message.Message)) (message.Subscriber, error)

	// ReadAll reads topics from their beginning to the end that they have now, those of one key in order.
	ReadAll(ctx context.Context, topics []string, each func(topic string, msg *message.Message) error) error

	// Close closes its connections.
	Close() error
}
