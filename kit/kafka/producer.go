// The producer of the relay. Of one key, nothing is sent after a message that failed, and a request that arrives late or twice has no effect. TestProducerRecords,
// TestProducerEpochsAreUsedUp and TestProducerSendEndsWithItsContext show it.

package kafka

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
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

// Close ends the connections.
func (p *Producer) Close() { p.disconnect() }
