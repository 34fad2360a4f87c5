package kafka

import (
	"context"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// ReadAll reads topics from their beginning to the end that they have now, a partition after the other.
func ReadAll(ctx context.Context, c Config, topics []string, each func(topic string, msg *message.Message) error) error {
	client, err := sarama.NewClient(c.Brokers, c.sarama())
	if err != nil {
		return fmt.Errorf("reach Kafka at %v: %w", c.Brokers, err)
	}
	defer client.Close() //nolint:errcheck // only read from
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		partitions, err := client.Partitions(topic)
		if err != nil {
			return fmt.Errorf("partitions of %s: %w", topic, err)
		}
		for _, partition := range partitions {
			if err := readPartition(ctx, client, consumer, topic, partition, each); err != nil {
				return fmt.Errorf("read %s/%d: %w", topic, partition, err)
			}
		}
	}
	return nil
}

func readPartition(ctx context.Context, client sarama.Client, consumer sarama.Consumer, topic string, partition int32, each func(string, *message.Message) error) error {
	first, err := client.GetOffset(topic, partition, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
	if err != nil || first >= end {
		return err
	}
	records, err := consumer.ConsumePartition(topic, partition, first)
	if err != nil {
		return err
	}
	defer records.AsyncClose()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case record := <-records.Messages():
			msg, _ := partitioned{}.Unmarshal(record) // it never fails
			if err := each(topic, msg); err != nil {
				return err
			}
			if record.Offset >= end-1 {
				return nil
			}
		}
	}
}
