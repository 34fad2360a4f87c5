// Requests of a Producer: messages are divided by leader and size, and each record has its own result. TestProducerRecords shows it.

package kafka

import (
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// recordOverhead is an upper bound for the bytes of a record besides its key, value and headers. batchOverhead is the number of bytes of a batch
// besides its records.
const (
	recordOverhead = 5*5 + 10 + 1
	batchOverhead  = 61
)

// part is the records for one partition in one request.
type part struct {
	batch *sarama.RecordBatch
	size  int
	rows  []int // indexes of the messages
}

// divide puts messages into one batch per partition. It returns the messages that do not fit into a batch in rest.
func (p *Producer) divide(topics []string, messages []*message.Message, rows []int, errs []error, failed failures) (parts map[place]*part, rest []int) {
	parts = map[place]*part{}
	now, limit := p.clock().Truncate(time.Millisecond), p.limit()
	full := map[place]bool{}
	for _, i := range rows {
		record, size := recordOf(messages[i])
		err := failed.topics[topics[i]]
		var at place
		if err == nil {
			if at, err = p.placeOf(topics[i], record.Key); err != nil {
				failed.topics[topics[i]] = err
			}
		}
		if err == nil {
			err = failed.places[at]
		}
		switch {
		case err != nil:
			errs[i] = err
			continue
		case size+batchOverhead > limit:
			errs[i] = fmt.Errorf("a record of %d bytes, at most %d: %w", size, limit, sarama.ErrMessageSizeTooLarge)
			failed.places[at] = errs[i]
			continue
		case full[at]:
			rest = append(rest, i)
			continue
		}
		b := parts[at]
		if b == nil {
			b = &part{batch: &sarama.RecordBatch{Version: 2, FirstTimestamp: now, MaxTimestamp: now}, size: batchOverhead}
			parts[at] = b
		}
		if b.size+size > limit {
			full[at] = true
			rest = append(rest, i)
			continue
		}
		record.OffsetDelta = int64(len(b.rows))
		b.batch.Records = append(b.batch.Records, record)
		b.batch.LastOffsetDelta = int32(len(b.rows)) //nolint:gosec // bounded by the batch's bytes
		b.size += size
		b.rows = append(b.rows, i)
	}
	return parts, rest
}

func recordOf(msg *message.Message) (*sarama.Record, int) {
	r := &sarama.Record{Value: msg.Payload, Headers: make([]*sarama.RecordHeader, 0, len(msg.Metadata))}
	headers := make([]sarama.RecordHeader, len(msg.Metadata))
	size, key := recordOverhead+len(msg.Payload), msg.Metadata[cqrs.HeaderKey]
	room := len(key)
	for name, value := range msg.Metadata {
		room += len(name) + len(value)
		size += len(name) + len(value) + 10
	}
	all := make([]byte, 0, room) // names and values in one allocation
	piece := func(s string) []byte {
		all = append(all, s...)
		return all[len(all)-len(s) : len(all) : len(all)]
	}
	for name, value := range msg.Metadata {
		h := &headers[len(r.Headers)]
		h.Key, h.Value = piece(name), piece(value)
		r.Headers = append(r.Headers, h)
	}
	if key != "" {
		r.Key = piece(key)
		size += len(key)
	}
	return r, size
}

// placeOf returns the partition of a key. Sarama's and Watermill's producers choose the same partition.
func (p *Producer) placeOf(topic string, key []byte) (place, error) {
	partitions, err := p.client.Partitions(topic)
	if err != nil {
		return place{}, topicFault(fmt.Errorf("partitions of %s: %w", topic, err), topic, "DESCRIBE")
	}
	record := &sarama.ProducerMessage{}
	if key != nil {
		record.Key = sarama.ByteEncoder(key)
	}
	partition, err := p.hash.Partition(record, int32(len(partitions))) //nolint:gosec // a few thousand at most
	return place{topic, partition}, err
}

// request sends the batches, in one concurrent request per broker, and returns the errors of the partitions that failed.
func (p *Producer) request(parts map[place]*part) map[place]error {
	failed := map[place]error{}
	requests := map[*sarama.Broker]*sarama.ProduceRequest{}
	for at, b := range parts {
		leader, err := p.client.Leader(at.topic, at.partition)
		if err != nil {
			failed[at] = topicFault(fmt.Errorf("%w: leader of %s/%d: %w", errNotSent, at.topic, at.partition, err), at.topic, "DESCRIBE")
			continue
		}
		if requests[leader] == nil {
			requests[leader] = &sarama.ProduceRequest{RequiredAcks: sarama.WaitForAll, Timeout: 10_000, Version: 7}
		}
		b.batch.ProducerID, b.batch.ProducerEpoch, b.batch.FirstSequence = p.id, p.epoch, p.sequences[at]
		requests[leader].AddBatch(at.topic, at.partition, b.batch)
	}
	type answer struct {
		broker   *sarama.Broker
		response *sarama.ProduceResponse
		err      error
	}
	answers := make(chan answer, len(requests))
	for broker, request := range requests {
		ask := func() {
			response, err := broker.Produce(request)
			answers <- answer{broker, response, err}
		}
		if len(requests) == 1 {
			ask()
		} else {
			go ask()
		}
	}
	responses := map[*sarama.Broker]answer{}
	for range requests {
		a := <-answers
		responses[a.broker] = a
		if a.err != nil {
			_ = a.broker.Close() // the client opens the connection again
		}
	}
	for at, b := range parts {
		if failed[at] != nil {
			continue
		}
		leader, _ := p.client.Leader(at.topic, at.partition) // from the client's cache
		a, asked := responses[leader]
		if !asked {
			a.err = sarama.ErrNotLeaderForPartition // the leader has changed meanwhile
		}
		if err := p.taken(at, a.response, a.err); err != nil {
			failed[at] = err
			continue
		}
		if block := a.response.GetBlock(at.topic, at.partition); p.accepted != nil {
			p.accepted(block.Offset, b.rows)
		}
		p.sequences[at] += int32(len(b.rows)) //nolint:gosec // begun anew below before it is too large
		if p.sequences[at] > math.MaxInt32/2 {
			p.anew()
		}
	}
	if len(failed) > 0 {
		p.anew()
	}
	return failed
}

func (p *Producer) taken(at place, response *sarama.ProduceResponse, err error) error {
	answered := err == nil
	if answered {
		block := response.GetBlock(at.topic, at.partition)
		switch {
		case block == nil:
			err = sarama.ErrIncompleteResponse
		case block.Err == sarama.ErrNoError, block.Err == sarama.ErrDuplicateSequenceNumber:
			return nil
		default:
			err = block.Err
		}
	}
	if !Refused(err) {
		_ = p.client.RefreshMetadata(at.topic) // the leader may have changed; if this fails, the next attempt reports it
	}
	err = fmt.Errorf("produce to %s/%d: %w", at.topic, at.partition, err)
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		err = fmt.Errorf("%w: %w", errNotSent, err)
	}
	if answered {
		return topicFault(err, at.topic, "WRITE")
	}
	return err
}
