package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

// DefaultLimit is Kafka's default of max.message.bytes.
const DefaultLimit = 1048588

// Limits are the size limits of a set of topics.
type Limits struct {
	Bytes   int      // the smallest max.message.bytes that could be read, but at most DefaultLimit
	Unknown []string // topics whose max.message.bytes the user may not read; DefaultLimit is assumed
}

// EnsureTopics creates missing topics with this number of partitions and the broker's default replication, and returns the size limits of all topics.
// If it fails for some topics only, it still creates the others and returns their *TopicError errors, joined.
func EnsureTopics(ctx context.Context, c Config, topics []string, partitions int32) (limits Limits, err error) {
	limits.Bytes = DefaultLimit
	if len(topics) == 0 {
		return limits, nil
	}
	admin, err := sarama.NewClusterAdmin(c.Brokers, c.sarama())
	if err != nil {
		return limits, fmt.Errorf("reach Kafka at %v: %w", c.Brokers, err)
	}
	defer admin.Close() //nolint:errcheck // nothing was left undone
	found, err := admin.DescribeTopics(topics)
	if err != nil {
		return limits, fmt.Errorf("describe topics: %w", err)
	}
	exists := map[string]bool{}
	for _, topic := range found {
		exists[topic.Name] = topic.Err == sarama.ErrNoError
	}
	var faults []error
	for _, topic := range topics {
		if ctx.Err() != nil {
			return limits, ctx.Err()
		}
		if !exists[topic] {
			err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: -1}, false)
			if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
				err = topicFault(fmt.Errorf("create topic %s, which does not exist or may not be seen: %w", topic, err), topic, "DESCRIBE, or CREATE if it does not exist,")
				if !TopicFault(err) {
					return limits, err
				}
				faults = append(faults, err)
				continue
			}
		}
		entries, err := describe(ctx, admin, topic)
		switch {
		case errors.Is(err, sarama.ErrTopicAuthorizationFailed), errors.Is(err, sarama.ErrClusterAuthorizationFailed):
			limits.Unknown = append(limits.Unknown, topic)
			continue
		case err != nil:
			if err = topicFault(err, topic, "DESCRIBE"); !TopicFault(err) {
				return limits, err
			}
			faults = append(faults, err)
		}
		for _, e := range entries {
			if n, err := strconv.Atoi(e.Value); err == nil && e.Name == "max.message.bytes" {
				limits.Bytes = min(limits.Bytes, n)
			}
		}
	}
	return limits, errors.Join(faults...)
}

// describe reads the size limit of a topic. It retries for two seconds, because not every broker knows a topic that was just created.
func describe(ctx context.Context, admin sarama.ClusterAdmin, topic string) (entries []sarama.ConfigEntry, err error) {
	for range 20 {
		entries, err = admin.DescribeConfig(sarama.ConfigResource{ //nolint:staticcheck // its successor needs a Version that the embedded broker lacks
			Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"max.message.bytes"},
		})
		if err == nil || errors.Is(err, sarama.ErrTopicAuthorizationFailed) || errors.Is(err, sarama.ErrClusterAuthorizationFailed) {
			return entries, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("describe topic %s: %w", topic, err)
}

// MissingTopics returns the topics that do not exist or that the user may not see.
func MissingTopics(c Config, topics []string) (missing []string, err error) {
	if len(topics) == 0 {
		return nil, nil
	}
	admin, err := sarama.NewClusterAdmin(c.Brokers, c.sarama())
	if err != nil {
		return nil, fmt.Errorf("reach Kafka at %v: %w", c.Brokers, err)
	}
	defer admin.Close() //nolint:errcheck // nothing was left undone
	found, err := admin.DescribeTopics(topics)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	for _, topic := range found {
		if topic.Err == sarama.ErrUnknownTopicOrPartition || topic.Err == sarama.ErrTopicAuthorizationFailed {
			missing = append(missing, topic.Name)
		}
	}
	return missing, nil
}

// Forever is the retention of a topic that keeps all messages. LongestRetention returns it.
const Forever = time.Duration(math.MaxInt64)

// LongestRetention returns the topic with the longest retention, and the retention. It ignores topics that do not exist. Unknown are the topics whose
// configuration the user may not read.
func LongestRetention(c Config, topics []string) (longest time.Duration, topic string, unknown []string, err error) {
	admin, err := sarama.NewClusterAdmin(c.Brokers, c.sarama())
	if err != nil {
		return 0, "", nil, fmt.Errorf("reach Kafka at %v: %w", c.Brokers, err)
	}
	defer admin.Close() //nolint:errcheck // nothing was left undone
	for _, name := range topics {
		entries, err := admin.DescribeConfig(sarama.ConfigResource{ //nolint:staticcheck // its successor needs a Version that the embedded broker lacks
			Type: sarama.TopicResource, Name: name, ConfigNames: []string{"retention.ms"},
		})
		if errors.Is(err, sarama.ErrTopicAuthorizationFailed) || errors.Is(err, sarama.ErrClusterAuthorizationFailed) {
			unknown = append(unknown, name)
			continue
		}
		if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			continue
		}
		if err != nil {
			return 0, "", nil, fmt.Errorf("describe topic %s: %w", name, err)
		}
		for _, e := range entries {
			ms, err := strconv.ParseInt(e.Value, 10, 64)
			if err != nil || e.Name != "retention.ms" {
				continue
			}
			kept := Forever
			if ms >= 0 && ms < int64(Forever/time.Millisecond) {
				kept = time.Duration(ms) * time.Millisecond
			}
			if kept > longest {
				longest, topic = kept, name
			}
		}
	}
	return longest, topic, unknown, nil
}

// Ping requests the metadata of the cluster. It returns an error if no broker answers. It blocks at most until ctx is done.
func Ping(ctx context.Context, c Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	c.Dial = func(dialling context.Context, network, address string) (net.Conn, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err() // sarama would try the next broker
		}
		dialling, stop := context.WithCancel(dialling)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		conn, err := dial(dialling, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}
	s := c.sarama()
	s.Metadata.Retry.Max = 0
	client, err := sarama.NewClient(c.Brokers, s)
	if err != nil {
		return err
	}
	return client.Close()
}

// NewAdmin connects as a cluster administrator, for tools and tests. The caller must close the client.
func NewAdmin(c Config) (sarama.ClusterAdmin, error) {
	return sarama.NewClusterAdmin(c.Brokers, c.sarama())
}
