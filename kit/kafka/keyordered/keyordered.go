// Package keyordered is a Watermill subscriber for Kafka that delivers many messages of a partition concurrently: messages of different keys in
// parallel, messages of a key strictly in order. It commits only offsets below the lowest unacknowledged message, so no message is lost. After a
// crash, messages that were acknowledged above that offset are delivered again.
//
// The idea comes from Confluent's Parallel Consumer (https://github.com/confluentinc/parallel-consumer) and LINE's Decaton
// (https://github.com/line/decaton). Watermill's own subscriber has one message of a partition in flight.
package keyordered

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Subscriber is a message.Subscriber that delivers the messages of a key in order, and other messages concurrently. It is safe for concurrent use.
type Subscriber struct {
	config  Config
	closing chan struct{}
	once    sync.Once
	topics  sync.WaitGroup

	mu      sync.Mutex
	claimed map[place]*partition       // partitions of this member
	whole   map[string]context.Context // by topic; not done while this member has all partitions of the topic
	given   map[string][]bool          // by topic and partition: whether the last session assigned it to this member
	ids     map[string]string          // ids of topics at the last session, as in the metadata of offsets
	remade  map[string]int             // how often a session found a topic for the first time or with another id than before
}

// NewSubscriber makes a Subscriber. It does not connect; an error is about the configuration.
func NewSubscriber(c Config) (*Subscriber, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &Subscriber{config: c, closing: make(chan struct{}), claimed: map[place]*partition{}, whole: map[string]context.Context{}, given: map[string][]bool{}, ids: map[string]string{}, remade: map[string]int{}}, nil
}

// Subscribe implements message.Subscriber. It returns at once, joins the group in the background, and retries until the broker is available. When ctx
// is done or the subscriber is closed, it delivers no new message, waits for the messages in flight, and only then leaves the group and closes the
// channel.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	select {
	case <-s.closing:
		return nil, errors.New("keyordered: the subscriber is closed")
	default:
	}
	out := make(chan *message.Message)
	consuming, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.topics.Go(func() {
		defer close(out) // last: the reader takes it as the end, and then offsets must be committed
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

// Close implements message.Subscriber. It blocks until all subscriptions have left the group.
func (s *Subscriber) Close() error {
	s.once.Do(func() { close(s.closing) })
	s.topics.Wait()
	return nil
}

// consume keeps this process a member of the group until ctx is done.
func (s *Subscriber) consume(ctx context.Context, topic string, out chan<- *message.Message) {
	fields := watermill.LogFields{"topic": topic, "group": s.config.Group}
	var said time.Time
	for ctx.Err() == nil {
		err := s.member(ctx, topic, out)
		if errors.Is(err, errUnavailable) {
			s.waitUntilAvailable(ctx, fields)
			continue
		}
		if err != nil && ctx.Err() == nil {
			if missing := missingRight(err, topic, s.config.Group); missing != nil {
				err = missing
			}
			if time.Since(said) > logEvery {
				s.config.Logger.Error("Cannot consume, retrying", err, fields)
				said = time.Now()
			}
			pause(ctx)
		}
	}
}

// pause waits for retryEvery. It returns false if ctx is done first.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retryEvery):
		return true
	}
}

// missingRight names the missing right on the topic or the group for an authorization error. It returns nil for any other error.
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
		if h.leaves.Swap(false) {
			return errUnavailable
		}
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

	end      func()          // ends the session
	leaves   atomic.Bool     // the member must leave the group when the session has ended
	metadata string          // the metadata of its offsets
	held     context.Context //nolint:containedctx // done when the session's partitions are to be given up
}

// Setup implements sarama.ConsumerGroupHandler.
func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	id, partitions, err := describe(h.client, h.topic)
	if err != nil {
		return err
	}
	h.note(h.topic, id)
	known := h.hold(session)
	if h.metadata = metadataOf(id); h.metadata != "" {
		reset, err := resetForeign(h.client, h.config.Group, h.metadata, session)
		if err != nil {
			return err
		}
		if len(reset) > 0 {
			h.config.Logger.Error("Topic was recreated, reading it from its beginning", nil,
				watermill.LogFields{"topic": h.topic, "group": h.config.Group, "partitions": reset})
		}
	}
	if known == 0 {
		known = partitions // the client does not know the number of partitions
	}
	go h.watch(session.Context(), h.metadata, known, h.end)
	h.leaves.Store(false)
	if len(session.Claims()[h.topic]) > 0 {
		go h.leaveIfUnavailable(session.Context(), h.end)
	}
	return nil
}

// Cleanup implements sarama.ConsumerGroupHandler.
func (*handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim implements sarama.ConsumerGroupHandler. It returns when the partition is revoked and its messages in flight have ended. Until then the
// member sends heartbeats and commits marked offsets.
func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	metadata := h.metadata
	base, lose := context.WithCancel(context.WithoutCancel(session.Context()))
	p := newPartition(h.config, claim.Topic(), h.held, base, h.out, h.bytes, func(next int64) {
		session.MarkOffset(claim.Topic(), claim.Partition(), next, metadata)
	})
	if p.position = claim.InitialOffset(); p.position < 0 { // the group has no offset
		if first, err := h.client.GetOffset(claim.Topic(), claim.Partition(), p.position); err == nil {
			p.position = first // without it, no message is accepted before the first record
		}
	}
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
	if session.Context().Err() != nil { // otherwise sarama cannot continue with the partition, and the group starts a new session when this returns
		<-h.held.Done()
	}
	patience := h.config.Grace
	switch {
	case h.ctx.Err() != nil:
		patience = h.config.CloseGrace
	case h.leaves.Load(): // the handlers cannot finish
		patience = 0
	}
	p.drain(patience, lose)
	return nil
}
