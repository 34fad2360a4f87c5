package kafka

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"
)

type partitionKey struct{}

// Partition returns the partition of a message that ReadAll has read; 0 for any other message.
func Partition(msg *message.Message) int32 {
	partition, _ := msg.Context().Value(partitionKey{}).(int32)
	return partition
}

// ReadAll reads topics from their beginning to their end at the time of the call, and calls each with every message. It reads all partitions
// concurrently and each partition in order; calls of each do not overlap. It skips records of aborted transactions, and stops before an open
// transaction. It blocks until all partitions are read, ctx is done, or each returns an error. Partition returns the partition of a message.
func ReadAll(ctx context.Context, c Config, topics []string, each func(topic string, msg *message.Message) error) error {
	client, err := sarama.NewClient(c.Brokers, c.sarama())
	if err != nil {
		return fmt.Errorf("reach Kafka at %v: %w", c.Brokers, err)
	}
	defer client.Close() //nolint:errcheck // only read from
	var one sync.Mutex
	readers, ctx := errgroup.WithContext(ctx)
	for _, topic := range topics {
		partitions, err := client.Partitions(topic)
		if err != nil {
			return errors.Join(topicFault(fmt.Errorf("partitions of %s: %w", topic, err), topic, "DESCRIBE"), readers.Wait())
		}
		for _, partition := range partitions {
			r := reader{client: client, bytes: c.fetchBytes(), topic: topic, partition: partition, each: func(record *sarama.ConsumerMessage) error {
				msg, err := c.records().Unmarshal(record)
				if err != nil {
					return fmt.Errorf("record %d: %w", record.Offset, err)
				}
				msg.SetContext(context.WithValue(msg.Context(), partitionKey{}, partition))
				one.Lock()
				defer one.Unlock()
				return each(topic, msg)
			}}
			readers.Go(func() error {
				if err := r.read(ctx); err != nil {
					return topicFault(fmt.Errorf("read %s/%d: %w", topic, partition, err), topic, "READ")
				}
				return nil
			})
		}
	}
	return readers.Wait()
}

// reader reads a partition with requests of its own, because sarama's consumer does not report its position if the last records are transaction
// markers or belong to aborted transactions.
type reader struct {
	client    sarama.Client
	bytes     int32 // of a request
	topic     string
	partition int32
	each      func(*sarama.ConsumerMessage) error
}

func (r reader) read(ctx context.Context) error {
	var offset, end int64
	err := r.again(ctx, func(leader *sarama.Broker) (err error) {
		if offset, err = r.offset(leader, sarama.OffsetOldest); err == nil {
			end, err = r.offset(leader, sarama.OffsetNewest)
		}
		return err
	})
	for err == nil && offset < end {
		var block *sarama.FetchResponseBlock
		err = r.again(ctx, func(leader *sarama.Broker) (err error) {
			block, err = r.fetch(leader, offset)
			return err
		})
		if err == nil {
			offset, err = r.deliver(block, offset, end)
		}
	}
	return err
}

// again sends a request to the partition's leader, and retries it twice. Retries are needed because all partitions share connections, and one failed
// response fails all requests that wait on its connection.
func (r reader) again(ctx context.Context, ask func(*sarama.Broker) error) (err error) {
	for range 3 {
		var leader *sarama.Broker
		if leader, err = r.client.Leader(r.topic, r.partition); err == nil {
			err = ask(leader)
		}
		if err == nil || errors.Is(err, sarama.ErrTopicAuthorizationFailed) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		_ = r.client.RefreshMetadata(r.topic) // if this fails, the next attempt reports it
	}
	return err
}

// offset returns the offset of the first record, or the last stable offset: that after the last record that does not follow the start of an open
// transaction.
func (r reader) offset(leader *sarama.Broker, at int64) (int64, error) {
	request := &sarama.OffsetRequest{Version: 2, IsolationLevel: sarama.ReadCommitted}
	request.AddBlock(r.topic, r.partition, at, 1)
	response, err := leader.GetAvailableOffsets(request)
	if err != nil {
		_ = leader.Close() // the client opens the connection again
		return 0, err
	}
	block := response.GetBlock(r.topic, r.partition)
	switch {
	case block == nil:
		return 0, sarama.ErrIncompleteResponse
	case block.Err != sarama.ErrNoError:
		return 0, block.Err
	}
	return block.Offset, nil
}

func (r reader) fetch(leader *sarama.Broker, offset int64) (*sarama.FetchResponseBlock, error) {
	request := &sarama.FetchRequest{Version: 4, Isolation: sarama.ReadCommitted, MaxWaitTime: 500, MinBytes: 1, MaxBytes: r.bytes}
	request.AddBlock(r.topic, r.partition, offset, r.bytes, -1)
	response, err := leader.Fetch(request)
	if err != nil {
		_ = leader.Close() // the client opens the connection again
		return nil, err
	}
	block := response.GetBlock(r.topic, r.partition)
	switch {
	case block == nil:
		return nil, sarama.ErrIncompleteResponse
	case block.Err != sarama.ErrNoError:
		return nil, block.Err
	}
	return block, nil
}

// deliver calls each with the records of a response, and returns the offset after them. The response lists aborted transactions separately from the
// records; the records of an aborted transaction end with a marker.
func (r reader) deliver(block *sarama.FetchResponseBlock, offset, end int64) (int64, error) {
	pending := slices.SortedFunc(slices.Values(block.AbortedTransactions), func(a, b *sarama.AbortedTransaction) int {
		return cmp.Compare(a.FirstOffset, b.FirstOffset)
	})
	aborted := map[int64]bool{} // by producer
	for _, records := range block.RecordsSet {
		batch := records.RecordBatch
		if batch == nil {
			return offset, errors.New("records are of a format from before Kafka 0.11")
		}
		if batch.PartialTrailingRecord {
			break // it is fetched again as a whole
		}
		for len(pending) > 0 && pending[0].FirstOffset <= batch.LastOffset() {
			aborted[pending[0].ProducerID] = true
			pending = pending[1:]
		}
		if batch.Control && isAbort(batch) {
			delete(aborted, batch.ProducerID)
		}
		if !batch.Control && (!batch.IsTransactional || !aborted[batch.ProducerID]) {
			for _, record := range batch.Records {
				at := batch.FirstOffset + record.OffsetDelta
				if at < offset || at >= end {
					continue
				}
				err := r.each(&sarama.ConsumerMessage{
					Topic: r.topic, Partition: r.partition, Offset: at, Key: record.Key, Value: record.Value, Headers: record.Headers,
					Timestamp: batch.FirstTimestamp.Add(record.TimestampDelta),
				})
				if err != nil {
					return offset, err
				}
			}
		}
		offset = max(offset, batch.LastOffset()+1)
	}
	return offset, nil
}

// isAbort tells whether a transaction marker says that its transaction was aborted. The marker's key holds a version and a type; type 0 means
// aborted.
func isAbort(marker *sarama.RecordBatch) bool {
	return len(marker.Records) == 1 && len(marker.Records[0].Key) >= 4 && binary.BigEndian.Uint16(marker.Records[0].Key[2:]) == 0
}
