// Package keyordered is a Watermill subscriber for Kafka that delivers many messages of a partition concurrently: messages of different keys
// in parallel, messages of one key strictly in order. It commits only offsets below the lowest unacknowledged message, so no message is lost.
// Messages that were acknowledged beyond that offset are delivered again after a crash.
//
// The idea is that of Confluent's Parallel Consumer (https://github.com/confluentinc/parallel-consumer) and of LINE's Decaton
// (https://github.com/line/decaton). Watermill's own subscriber has one message of a partition in flight.
package keyordered

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Config of a Subscriber. What is zero is replaced by the default.
type Config struct {
	Brokers []string
	Group   string

	// Sarama is the client's configuration. Default: DefaultSarama.
	Sarama *sarama.Config

	// Unmarshaler makes messages of records. A record for which it fails is handed out with its bytes and the error under MetadataError.
	// Default: that of Watermill's Kafka publisher, wkafka.DefaultMarshaler.
	Unmarshaler wkafka.Unmarshaler

	// Key returns the key of a record. Messages of one key are handed out in order, one at a time unless Run is more; a message whose key is
	// empty waits for no other message. Default: the record's key.
	Key func(*sarama.ConsumerMessage) string

	// MaxInFlight is how many messages of a partition may be in flight, those that wait for an earlier message of their key included. Default 256.
	MaxInFlight int

	// MaxAhead is how many messages after the lowest unacknowledged one of a partition are handed out. So many may be redelivered after a crash.
	// Default 10,000.
	MaxAhead int

	// MaxBytes bounds the messages in flight of all partitions together. Default 64 MiB.
	MaxBytes int

	// NackPause is the time until a nacked message is handed out again; it doubles each time, up to a hundred times as long. Messages
	// of other keys go on meanwhile. Default 100 ms.
	NackPause time.Duration

	// Grace is how long messages in flight may take when their partition is taken away; then their contexts are cancelled. It must be
	// well below the group's rebalance timeout. Default 3 s.
	Grace time.Duration

	// CloseGrace is the same when the subscriber is closed. Default 8 s.
	CloseGrace time.Duration

	// Run is how many messages of one key that have queued up are handed out at once. More than one needs Link and WithLink, by which the handlers
	// know the order. Default 1.
	Run int

	// Link is called for each message with the link of the message before it with the same key, or nil if none is in flight. WithLink puts the
	// result into the message's context. Done is called when the message is acknowledged. Optional.
	Link     func(before any) (link any, done func())
	WithLink func(ctx context.Context, link any) context.Context

	// CheckTopicEvery is how often a member compares the id of its topic with the one that its offsets are committed with. Records of a
	// recreated topic may be handled out of order for so long; none is left out. Default: 1 s.
	CheckTopicEvery time.Duration

	Logger watermill.LoggerAdapter
}

// retryEvery is the pause after a failure to reach the brokers. logEvery is the shortest time between two log lines about such failures.
const (
	retryEvery = time.Second
	logEvery   = 30 * time.Second
)

func (c *Config) complete() error {
	switch {
	case len(c.Brokers) == 0:
		return errors.New("keyordered: no brokers")
	case c.Group == "":
		return errors.New("keyordered: no group")
	case (c.Link == nil) != (c.WithLink == nil):
		return errors.New("keyordered: Link and WithLink go together")
	case c.Run > 1 && c.Link == nil:
		return errors.New("keyordered: Run needs Link and WithLink")
	}
	if c.Sarama == nil {
		c.Sarama = DefaultSarama()
	}
	if c.Unmarshaler == nil {
		c.Unmarshaler = wkafka.DefaultMarshaler{}
	}
	if c.Key == nil {
		c.Key = func(r *sarama.ConsumerMessage) string { return string(r.Key) }
	}
	if c.Run == 0 {
		c.Run = 1
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 256
	}
	if c.MaxAhead == 0 {
		c.MaxAhead = 10_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.NackPause == 0 {
		c.NackPause = 100 * time.Millisecond
	}
	if c.Grace == 0 {
		c.Grace = 3 * time.Second
	}
	if c.CloseGrace == 0 {
		c.CloseGrace = 8 * time.Second
	}
	if c.CheckTopicEvery == 0 {
		c.CheckTopicEvery = time.Second
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c.Sarama.Validate()
}

// DefaultSarama is a client of Kafka 2.8 or later that reads committed records only. A group without offsets starts at the oldest record, so that
// no message is skipped. The rebalance timeout leaves time for Grace.
func DefaultSarama() *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0 // the first with ids of topics
	s.ClientID = "watermill"
	s.Consumer.Return.Errors = true
	s.Consumer.IsolationLevel = sarama.ReadCommitted
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	return s
}

// Subscriber is a message.Subscriber.
type Subscriber struct {
	config  Config
	closing chan struct{}
	once    sync.Once
	topics  sync.WaitGroup

	mu      sync.Mutex
	claimed map[place]*partition // of this member
}

// NewSubscriber makes a Subscriber. It does not connect yet; an error is about the configuration.
func NewSubscriber(c Config) (*Subscriber, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &Subscriber{config: c, closing: make(chan struct{}), claimed: map[place]*partition{}}, nil
}

// Subscribe implements message.Subscriber. It joins the group in the background and retries until it succeeds, so it waits for a broker that
// is unavailable. When ctx is done or the subscriber is closed, it delivers no new message, waits for the messages in flight, and only then
// leaves the group and closes the channel.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	select {
	case <-s.closing:
		return nil, errors.New("keyordered: the subscriber is closed")
	default:
	}
	out := make(chan *message.Message)
	consuming, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.topics.Go(func() {
		defer close(out) // last: whoever reads takes it as the end, and by then offsets are committed
		defer stop()
		go func() {
			select {
			case <-s.closing:
			case <-ctx.Done():
			case <-consuming.Done():
			}
			stop()
		}()
		s.consume(consuming, topic, out)
	})
	return out, nil
}

// Close implements message.Subscriber.
func (s *Subscriber) Close() error {
	s.once.Do(func() { close(s.closing) })
	s.topics.Wait()
	return nil
}

// consume is a member of the group until ctx is done.
func (s *Subscriber) consume(ctx context.Context, topic string, out chan<- *message.Message) {
	fields := watermill.LogFields{"topic": topic, "group": s.config.Group}
	var said time.Time
	for ctx.Err() == nil {
		if err := s.member(ctx, topic, out); err != nil && ctx.Err() == nil {
			if missing := missingRight(err, topic, s.config.Group); missing != nil {
				err = missing
			}
			if time.Since(said) > logEvery {
				s.config.Logger.Error("Cannot consume, retrying", err, fields)
				said = time.Now()
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryEvery):
			}
		}
	}
}

// missingRight adds the missing right on the topic or the group to an authorization error; nil for other errors.
func missingRight(err error, topic, group string) error {
	switch {
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed):
		return fmt.Errorf("%w: the user of KAFKA_USER needs READ on topic %s", sarama.ErrTopicAuthorizationFailed, topic)
	case errors.Is(err, sarama.ErrGroupAuthorizationFailed):
		return fmt.Errorf("%w: the user of KAFKA_USER needs READ on group %s", sarama.ErrGroupAuthorizationFailed, group)
	}
	return nil
}

func (s *Subscriber) member(ctx context.Context, topic string, out chan<- *message.Message) (err error) {
	client, err := sarama.NewClient(s.config.Brokers, s.config.Sarama)
	if err != nil {
		return fmt.Errorf("reach Kafka at %v: %w", s.config.Brokers, err)
	}
	group, err := sarama.NewConsumerGroupFromClient(s.config.Group, client)
	if err != nil {
		return errors.Join(err, client.Close())
	}
	errs := make(chan struct{})
	go func() {
		defer close(errs)
		var said time.Time
		for err := range group.Errors() {
			if missing := missingRight(err, topic, s.config.Group); missing != nil && time.Since(said) > logEvery {
				s.config.Logger.Error("Cannot consume, retrying", missing, watermill.LogFields{"topic": topic, "group": s.config.Group})
				said = time.Now()
			}
			s.config.Logger.Debug("Consumer group", watermill.LogFields{"error": err.Error()})
		}
	}()
	defer func() {
		err = errors.Join(err, group.Close(), client.Close())
		<-errs
	}()
	h := &handler{Subscriber: s, config: s.config, ctx: ctx, client: client, topic: topic, out: out, bytes: newBudget(s.config.MaxBytes)}
	for ctx.Err() == nil {
		session, end := context.WithCancel(ctx)
		h.end = end
		err := group.Consume(session, []string{topic}, h)
		again := session.Err() != nil
		end()
		if err != nil && !again {
			return err
		}
	}
	return nil
}

// handler is the sarama.ConsumerGroupHandler of a topic.
type handler struct {
	*Subscriber
	config Config
	ctx    context.Context //nolint:containedctx // that of the subscription: it says why a session ends
	client sarama.Client
	topic  string
	out    chan<- *message.Message
	bytes  *budget

	end      func() // ends the session
	metadata string // that its offsets are committed with
}

// Setup implements sarama.ConsumerGroupHandler.
func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	id, err := topicID(h.client, h.topic)
	if err != nil {
		return err
	}
	if h.metadata = metadataOf(id); h.metadata == "" {
		return nil
	}
	reset, err := resetForeign(h.client, h.config.Group, h.metadata, session)
	if err != nil {
		return err
	}
	if len(reset) > 0 {
		h.config.Logger.Error("Topic was recreated, reading it from its beginning", nil,
			watermill.LogFields{"topic": h.topic, "group": h.config.Group, "partitions": reset})
	}
	go watchTopic(session.Context(), h.client, h.topic, h.metadata, h.config.CheckTopicEvery, h.end)
	return nil
}

// Cleanup implements sarama.ConsumerGroupHandler.
func (*handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim implements sarama.ConsumerGroupHandler. It returns when the partition is taken away and the messages in flight have ended.
// Until then the member sends heartbeats, and marked offsets are committed.
func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	metadata := h.metadata
	base, lose := context.WithCancel(context.WithoutCancel(session.Context()))
	p := newPartition(h.config, claim.Topic(), session.Context(), base, h.out, h.bytes, func(next int64) {
		session.MarkOffset(claim.Topic(), claim.Partition(), next, metadata)
	})
	p.position = claim.InitialOffset() // less than 0 if it is to be found out: then nothing is taken before the first record
	at := place{claim.Topic(), claim.Partition()}
	h.claim(at, p)
	defer h.unclaim(at, p)
	for more := true; more; {
		select {
		case record, ok := <-claim.Messages():
			more = ok && p.admit(record)
		case <-session.Context().Done():
			more = false
		}
	}
	patience := h.config.Grace
	if h.ctx.Err() != nil {
		patience = h.config.CloseGrace
	}
	p.drain(patience, lose)
	return nil
}
