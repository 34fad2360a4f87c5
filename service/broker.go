package service

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/millrace/millrace/adapters/breaker"
	"github.com/millrace/millrace/adapters/embedded"
	"github.com/millrace/millrace/adapters/kafka"
	"github.com/millrace/millrace/adapters/postgres/outbox"
)

// startBroker starts the embedded Kafka if no other is set. It does not connect: a broker that is away is no reason not to
// accept orders.
func (s *Service) startBroker(_ context.Context, _ func(string)) (err error) {
	s.Brokers = s.config.KafkaBrokers
	if len(s.Brokers) == 0 {
		if s.broker, err = embedded.StartKafka(s.config.DataDir, 0); err != nil {
			return err
		}
		s.onStop(func(context.Context) error { s.broker.Stop(); return nil })
		s.Brokers = s.broker.Brokers
	}
	s.kafka = kafka.Config{Brokers: s.Brokers, ClientID: s.config.TopicPrefix, InstanceID: s.config.InstanceID, Instance: cmp.Or(s.config.InstanceID, uuid.NewString()[:8]), Security: s.config.KafkaAuth}
	return nil
}

// ensureTopics creates what is missing, again and again until it succeeds or the service stops.
func (s *Service) ensureTopics(ctx context.Context) bool {
	for {
		limit, err := kafka.EnsureTopics(ctx, s.kafka, s.core.topics, s.config.Partitions)
		if err == nil {
			s.limit.Store(int64(limit))
			if _, err := kafka.EnsureTopics(ctx, s.kafka, s.core.othersTopics, s.config.Partitions); err != nil {
				s.log.Warn("cannot make topics of other services, which may not have been started yet; they are waited for", "error", err)
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.log.Warn("waiting for Kafka", "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Second):
		}
	}
}

// newBreaker makes a breaker that judges from so many requests on; 0 is its default.
func (s *Service) newBreaker(name string, minRequests uint32, failed func(error) bool) *breaker.Breaker {
	b := breaker.New(name, breaker.Options{Failed: failed, MinRequests: minRequests, OnChange: s.telemetry.BreakerChanged, Stopping: s.stopping})
	s.breakers[name] = b
	return b
}

// startRelay has the outbox forwarded, on instances with that role; on all others it is seen to that relays elsewhere wake up.
func (s *Service) startRelay(ctx context.Context, _ func(string)) error {
	notifier := outbox.NewNotifier(s.db)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		notifier.Run(ctx)
	}()
	s.onStop(func(context.Context) error { cancel(); <-done; return nil })
	if !s.config.Roles[Relay] {
		s.core.wake = notifier.Notify
		return nil
	}
	s.relay = outbox.NewRelay(s.db, s.senders(), s.log, outbox.Options{
		DSN: s.DSN, Refused: kafka.Refused, OnRelayed: s.telemetry.Relayed,
		OnParked: func(string, string, error) { s.telemetry.Failed("relay", "dead") },
	})
	s.core.offer = s.relay.Offer
	s.core.wake = func() {
		s.relay.Wake()
		if !s.relay.HoldsAll() {
			notifier.Notify()
		}
	}
	relayCtx, stop := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		if s.ensureTopics(relayCtx) { // also for the topics' limit, which the publisher must know
			s.relay.Run(relayCtx)
		}
	}()
	s.onStop(func(context.Context) error {
		stop()
		<-finished
		return nil
	})
	return nil
}

// senders makes the senders of the relay's workers: our own, or Watermill's publisher for all.
func (s *Service) senders() func() outbox.Sender {
	limit := func() int { return int(s.limit.Load()) }
	// A request is a whole batch, and after a failure the next one comes later and later.
	guard := s.newBreaker("kafka", 3, func(err error) bool { return !kafka.Refused(err) })
	if s.config.Serial {
		publisher := kafka.NewPublisher(s.kafka, limit, s.watermill)
		s.onStop(func(context.Context) error { return publisher.Close() })
		return outbox.ThroughPublisher(guard.Around(publisher))
	}
	return func() outbox.Sender { return guarded{kafka.NewProducer(s.kafka, limit), guard} }
}

// guarded has the relay send through a producer behind a breaker.
type guarded struct {
	*kafka.Producer
	guard *breaker.Breaker
}

// Send implements outbox.Sender.
func (s guarded) Send(topics []string, messages []*message.Message) (errs []error) {
	err := s.guard.Do(func() error {
		errs = s.Producer.Send(topics, messages)
		for _, err := range errs {
			if err != nil && !kafka.Refused(err) {
				return err
			}
		}
		return nil
	})
	if errs == nil { // it is open
		errs = slices.Repeat([]error{err}, len(messages))
	}
	return errs
}

// subscriber makes a subscriber for a group, of the kind that is set.
func (s *Service) subscriber(group, keyHeader string, announce func(*message.Message)) (message.Subscriber, error) {
	if s.config.Serial {
		return kafka.NewSerialSubscriber(s.kafka, group, s.watermill)
	}
	return kafka.NewSubscriber(s.kafka, group, keyHeader, announce, s.watermill)
}
