// The producer of the relay. After a message of a key has failed, no later message of the key is sent in the same call, and a request that arrives
// late or twice has no effect. TestProducerRecords, TestProducerEpochsAreUsedUp and TestProducerSendEndsWithItsContext show it.

package kafka

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Producer sends many messages in one request per broker, and has no other request in flight meanwhile. The broker accepts the records for a
// partition all together or not at all, so a later message of a key never overtakes a message that failed. Sarama's producers do not guarantee this:
// they may split a batch into requests that fail independently. A Producer is not safe for concurrent use.
type Producer struct {
	config Config
	limit  func() int
	clock  func() time.Time
	hash   sarama.Partitioner

	client   sarama.Client
	conns    *connections // of client
	failed   error
	failedAt time.Time
	stale    bool // the epochs are used up: the producer needs a new id

	// The broker recognises a request that it has already accepted by the producer id, its epoch and a sequence number per partition. After a failure
	// the producer increments the epoch, so that the broker rejects a request of the old epoch that arrives later.
	id        int64
	epoch     int16
	sequences map[place]int32

	accepted func(base int64, rows []int) // called for each accepted part with the offset of its first record; nil: not called
}

type place struct {
	topic     string
	partition int32
}

// NewProducer makes a producer that connects when it is first used. Limit returns the largest record that the topics accept, in bytes; clock returns
// the timestamp of records.
func NewProducer(c Config, limit func() int, clock func() time.Time) *Producer {
	return &Producer{config: c, limit: limit, clock: clock, hash: sarama.NewHashPartitioner("")}
}

// Send sends each message to its topic, and returns one error per message: nil if all in-sync replicas have the message. Messages of a partition are
// sent in order, and after one of them has failed, no later one is sent. Send blocks until all requests are answered or ctx is done; then it closes
// the connections, and unsent data is dropped. Refused and TopicFault classify the errors.
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
		if !abort() { // ctx is done, so the connections are closed
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
			slices.Sort(rest) // restore the order within each partition
			moved++
			select {
			case <-ctx.Done():
			case <-time.After(leaderPause):
			}
		}
	}
	return errs
}

// A partition that has just been created or whose leader changes is retried this often before it fails.
const (
	leaderAttempts = 3
	leaderPause    = 100 * time.Millisecond
)

// leaderMoved tells whether the partition has another leader or none yet. The broker has then accepted no record.
func leaderMoved(err error) bool {
	return errors.Is(err, sarama.ErrNotLeaderForPartition) || errors.Is(err, sarama.ErrLeaderNotAvailable)
}

// failures are the errors of topics and partitions in one call of Send, which sends no further messages to them.
type failures struct {
	topics map[string]error
	places map[place]error
}

// Close closes the connections. Send connects again.
func (p *Producer) Close() { p.disconnect() }
