package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"
)

// ReadAll reads topics from their beginning to the end that they have now, all partitions at once, each in order. Each is not
// called by two at the same time.
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
	var one sync.Mutex
	serial := func(topic string, msg *message.Message) error {
		one.Lock()
		defer one.Unlock()
		return each(topic, msg)
	}
	readers, ctx := errgroup.WithContext(ctx)
	for _, topic := range topics {
		partitions, err := client.Partitions(topic)
		if err != nil {
			return errors.Join(fmt.Errorf("partitions of %s: %w", topic, err), readers.Wait())
		}
		for _, partition := range partitions {
			readers.Go(func() error {
				if err := readPartition(ctx, client, consumer, topic, partition, serial); err != nil {
					return fmt.Errorf("read %s/%d: %w", topic, partition, err)
				}
				return nil
			})
		}
	}
	return readers.Wait()
}

func readPartition(ctx context.Context, client sarama.Client, consumer sarama.Consumer, topic string, partition int32, each func(string, *message.Message) error) error {
	first, end, err := bounds(ctx, client, topic, partition)
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

// bounds are the offsets of a partition's first record, and of the one that comes next. All partitions are asked on the same connections,
// and one answer that fails ends a connection for all who wait on it; so it is asked again.
func bounds(ctx context.Context, client sarama.Client, topic string, partition int32) (first, end int64, err error) {
	for range 3 {
		first, err = client.GetOffset(topic, partition, sarama.OffsetOldest)
		if err == nil {
			end, err = client.GetOffset(topic, partition, sarama.OffsetNewest)
		}
		if err == nil {
			return first, end, nil
		}
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return 0, 0, err
}
