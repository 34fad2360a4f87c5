package service

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

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
	s.kafka = kafka.Config{Brokers: s.Brokers, ClientID: s.config.TopicPrefix, InstanceID: s.config.InstanceID, Security: s.config.KafkaAuth}
	return nil
}

// ensureTopics creates what is missing, again and again until it succeeds or the service stops.
func (s *Service) ensureTopics(ctx context.Context) bool {
	for {
		limit, err := kafka.EnsureTopics(ctx, s.kafka, s.core.topics, s.config.Partitions)
		if err == nil {
			s.limit.Store(int64(limit))
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

func (s *Service) newBreaker(name string, failed func(error) bool) *breaker.Breaker {
	b := breaker.New(name, breaker.Options{Failed: failed, OnChange: s.telemetry.BreakerChanged, Stopping: s.stopping})
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
	publisher := kafka.NewPublisher(s.kafka, func() int { return int(s.limit.Load()) }, s.watermill)
	guard := s.newBreaker("kafka", func(err error) bool { return !kafka.Refused(err) })
	s.relay = outbox.NewRelay(s.db, guard.Around(publisher), s.log, outbox.Options{
		DSN: s.DSN, Refused: kafka.Refused, OnRelayed: func(n int) { s.telemetry.Relayed.Add(float64(n)) },
		OnParked: func(string, string, error) { s.telemetry.Failed("relay", "dead") },
	})
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
		return publisher.Close()
	})
	return nil
}

func (s *Service) subscriber(group string) (message.Subscriber, error) {
	return kafka.NewSubscriber(s.kafka, group, s.watermill)
}
