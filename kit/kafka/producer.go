package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// Producer sends many messages in one request per broker, and starts no other request meanwhile. The broker accepts the records of a
// partition as a whole or not at all, so a message that fails never lets a later message of its key pass. Sarama's producers may split a
// batch over requests that fail independently. One goroutine uses a Producer.
type Producer struct {
	config Config
	limit  func() int
	clock  func() time.Time
	hash   sarama.Partitioner

	client   sarama.Client
	conns    *connections // of the client
	failed   error
	failedAt time.Time
	stale    bool // the epochs are used up: a new producer id is needed

	// By the producer id, its epoch and a sequence number per partition the broker recognises a request that it has accepted already. After a
	// failure the epoch goes up, so that the broker rejects a request of the old epoch that arrives later.
	id        int64
	epoch     int16
	sequences map[place]int32

	accepted func(base int64, rows []int) // called for each accepted part, with the offset of its first record; nil: for none
}

type place struct {
	topic     string
	partition int32
}

// NewProducer makes a producer that connects when it is used. Limit returns the largest record that the topics accept, in bytes; clock is the
// time of records.
func NewProducer(c Config, limit func() int, clock func() time.Time) *Producer {
	return &Producer{config: c, limit: limit, clock: clock, hash: sarama.NewHashPartitioner("")}
}

// recordOverhead is an upper bound of a record's bytes beside its key, value and headers, and batchOverhead of a batch's bytes beside its
// records.
const (
	recordOverhead = 5*5 + 10 + 1
	batchOverhead  = 61
)

// part is the records for one partition in one request.
type part struct {
	batch *sarama.RecordBatch
	size  int
	rows  []int // of the messages
}

// Send sends messages, each to its topic, and returns an error for each, nil if all in-sync replicas have it. The messages of one partition
// are in order, and none is sent after one that failed. When ctx is done, the connections are closed, and unsent data is dropped.
func (p *Producer) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	errs := make([]error, len(messages))
	fail := func(rows []int, err error) {
		for _, i := range rows {
			errs[i] = err
		}
	}
	rest := make([]int, len(messages))
	for i := range rest {
		rest[i] = i
	}
	failed := failures{map[string]error{}, map[place]error{}}
	for moved := 0; len(rest) > 0; {
		err := context.Cause(ctx)
		if err == nil {
			err = p.connect()
		}
		if err != nil {
			fail(rest, err)
			return errs
		}
		var parts map[place]*part
		parts, rest = p.divide(topics, messages, rest, errs, failed)
		abort := context.AfterFunc(ctx, p.conns.abort)
		results := p.request(parts)
		if !abort() { // the connections are closed
			p.disconnect()
		}
		again := 0
		for at, err := range results {
			switch {
			case ctx.Err() != nil:
				err = errors.Join(context.Cause(ctx), err)
			case leaderMoved(err) && moved < leaderAttempts:
				rest = append(rest, parts[at].rows...)
				again++
				continue
			}
			fail(parts[at].rows, err)
			failed.places[at] = err
		}
		if again > 0 {
			slices.Sort(rest) // those of one partition are in order again
			moved++
			select {
			case <-ctx.Done():
			case <-time.After(leaderPause):
			}
		}
	}
	return errs
}

// A partition whose leader changes, or that was just created, is retried this often before it counts as failed.
const (
	leaderAttempts = 3
	leaderPause    = 100 * time.Millisecond
)

// leaderMoved tells whether an error says that the partition has another leader, or none yet. No record was accepted then.
func leaderMoved(err error) bool {
	return errors.Is(err, sarama.ErrNotLeaderForPartition) || errors.Is(err, sarama.ErrLeaderNotAvailable)
}

// failures are the errors of topics and partitions in one call, so that it does not send to them again.
type failures struct {
	topics map[string]error
	places map[place]error
}

// divide puts messages into one batch per partition, and returns the messages that do not fit.
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
	all := make([]byte, 0, room) // names and values, in one piece
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

// placeOf is the partition of a key, the same as that of sarama's and Watermill's producers.
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

// request sends a batch to each partition, one request per broker at the same time, and returns the parts that failed.
func (p *Producer) request(parts map[place]*part) map[place]error {
	failed := map[place]error{}
	requests := map[*sarama.Broker]*sarama.ProduceRequest{}
	for at, b := range parts {
		leader, err := p.client.Leader(at.topic, at.partition)
		if err != nil {
			failed[at] = topicFault(fmt.Errorf("leader of %s/%d: %w", at.topic, at.partition, err), at.topic, "DESCRIBE")
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
			_ = a.broker.Close() // it is opened again when it is needed
		}
	}
	for at, b := range parts {
		if failed[at] != nil {
			continue
		}
		leader, _ := p.client.Leader(at.topic, at.partition) // it is cached
		a, asked := responses[leader]
		if !asked {
			a.err = sarama.ErrNotLeaderForPartition // it has changed meanwhile
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
		_ = p.client.RefreshMetadata(at.topic) // somebody else may be its leader now; if not, the next attempt says so
	}
	err = fmt.Errorf("produce to %s/%d: %w", at.topic, at.partition, err)
	if answered {
		return topicFault(err, at.topic, "WRITE")
	}
	return err
}

// anew starts a new epoch: the broker rejects a request of the old epoch that arrives later.
func (p *Producer) anew() {
	clear(p.sequences)
	if p.epoch == math.MaxInt16-1 { // the next one is no epoch
		p.stale = true
		return
	}
	p.epoch++
}

func (p *Producer) connect() error {
	if p.stale {
		p.disconnect()
	}
	if p.client != nil {
		return nil
	}
	if p.failed != nil && time.Since(p.failedAt) < 500*time.Millisecond {
		return p.failed
	}
	s := p.config.sarama()
	s.Producer.Idempotent = true // for the client's InitProducerID; the rest is what it asks for
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Net.MaxOpenRequests = 1
	s.Net.ReadTimeout = 15 * time.Second
	conns := &connections{dialer: net.Dialer{Timeout: s.Net.DialTimeout, KeepAlive: s.Net.KeepAlive}}
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, conns
	client, err := sarama.NewClient(p.config.Brokers, s)
	if err == nil {
		var answer *sarama.InitProducerIDResponse
		if answer, err = client.InitProducerID(); err == nil && answer.Err != sarama.ErrNoError {
			err = answer.Err
		}
		if err == nil {
			p.client, p.conns, p.failed, p.stale = client, conns, nil, false
			p.id, p.epoch, p.sequences = answer.ProducerID, answer.ProducerEpoch, map[place]int32{}
			return nil
		}
		err = errors.Join(err, client.Close())
	}
	p.failed, p.failedAt = fmt.Errorf("reach Kafka at %v: %w", p.config.Brokers, err), time.Now()
	return p.failed
}

func (p *Producer) disconnect() {
	if p.client != nil {
		_ = p.client.Close() // nothing is on its way
		p.client = nil
	}
}

// connections are the connections of a client, which can be closed at once. Sarama closes a connection only after its responses have arrived.
type connections struct {
	dialer net.Dialer
	mu     sync.Mutex
	open   []net.Conn
}

// Dial implements proxy.Dialer.
func (c *connections) Dial(network, address string) (net.Conn, error) {
	conn, err := c.dialer.Dial(network, address)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open = append(c.open, conn)
	}
	return conn, err
}

// abort closes all connections. The operating system drops unsent data: an incomplete request has no effect.
func (c *connections) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // at worst it is sent
		}
		_ = conn.Close() // the client may have closed it before
	}
	c.open = nil
}

// Close ends the connections.
func (p *Producer) Close() { p.disconnect() }
