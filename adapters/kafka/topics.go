package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

// DefaultLimit is Kafka's own default of max.message.bytes.
const DefaultLimit = 1048588

// EnsureTopics creates those topics that are missing, with this many partitions and the broker's default replication, and
// returns the smallest max.message.bytes of all.
func EnsureTopics(ctx context.Context, c Config, topics []string, partitions int32) (limit int, err error) {
	admin, err := sarama.NewClusterAdmin(c.Brokers, c.sarama())
	if err != nil {
		return 0, fmt.Errorf("reach Kafka at %v: %w", c.Brokers, err)
	}
	defer admin.Close() //nolint:errcheck // nothing was left undone
	existing, err := admin.ListTopics()
	if err != nil {
		return 0, fmt.Errorf("list topics: %w", err)
	}
	limit = DefaultLimit
	for _, topic := range topics {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if _, ok := existing[topic]; !ok {
			err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: -1}, false)
			if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
				return 0, fmt.Errorf("create topic %s: %w", topic, err)
			}
		}
		entries, err := describe(ctx, admin, topic)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			if n, err := strconv.Atoi(e.Value); err == nil && e.Name == "max.message.bytes" {
				limit = min(limit, n)
			}
		}
	}
	return limit, nil
}

// describe asks again for a moment: a topic that was just created is not known everywhere at once.
func describe(ctx context.Context, admin sarama.ClusterAdmin, topic string) (entries []sarama.ConfigEntry, err error) {
	for range 20 {
		entries, err = admin.DescribeConfig(sarama.ConfigResource{ //nolint:staticcheck // its successor needs a Version that the embedded broker lacks
			Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"max.message.bytes"},
		})
		if err == nil {
			return entries, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("describe topic %s: %w", topic, err)
}

// Ping asks the brokers for their metadata.
func Ping(c Config) error {
	s := c.sarama()
	s.Metadata.Retry.Max = 0
	client, err := sarama.NewClient(c.Brokers, s)
	if err != nil {
		return err
	}
	return client.Close()
}
