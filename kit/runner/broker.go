package runner

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/sony/gobreaker"

	"github.com/millrace/millrace/kit/breaker"
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// BrokerEnv has the values that Service.Broker needs to make a broker.
type BrokerEnv struct {
	Config  Config
	DSN     string // of the database; it is the embedded PostgreSQL if POSTGRES_DSN is not set
	DB      *sqlx.DB
	Kafka   kafka.Config // from the settings; Brokers is the embedded broker if KAFKA_BROKERS is not set
	Options broker.KafkaOptions
	Log     watermill.LoggerAdapter
}

// startBroker makes the broker with Service.Broker, and starts the embedded Kafka if KAFKA_BROKERS is not set. It does not connect to Kafka: the
// service accepts requests while the broker is unavailable.
func (s *Instance) startBroker(_ context.Context, _ func(string)) (err error) {
	if s.config.Broker == InKafka {
		s.Brokers = s.config.KafkaBrokers
		if len(s.Brokers) == 0 {
			own, err := embedded.StartKafka(s.config.DataDir, 0)
			if err != nil {
				return err
			}
			s.onStop(func(context.Context) error { own.Stop(); return nil })
			s.Brokers = own.Brokers
		}
	}
	if s.broker, err = s.def.Broker(BrokerEnv{
		Config: s.config, DSN: s.DSN, DB: s.db, Log: s.watermill,
		Kafka: kafka.Config{
			Brokers: s.Brokers, ClientID: s.config.TopicPrefix, InstanceID: s.config.InstanceID, Instance: cmp.Or(s.config.InstanceID, uuid.NewString()[:8]),
			Member: kafka.MemberMetadata{Host: s.host, Since: s.since}, Security: s.config.KafkaAuth,
			GroupBytes: memoryFor(64<<20, groupsShare, 1<<20), FetchBytes: int32(memoryFor(256<<10, groupsShare*int(s.config.Partitions), 16<<10)), //nolint:gosec // at most 256 KiB
		},
		Options: broker.KafkaOptions{Partitions: s.config.Partitions, Embedded: len(s.config.KafkaBrokers) == 0, Now: s.brokerTime, Unavailable: s.unavailable(), Log: s.log, Watermill: s.watermill},
	}); err != nil {
		return err
	}
	s.onStop(func(context.Context) error { return s.broker.Close() })
	return nil
}

// unavailable starts the health check of PostgreSQL, without which a worker's handlers cannot work. It returns nil for an instance without handlers, and with the embedded broker,
// where no other instance could handle the messages.
func (s *Instance) unavailable() func() bool {
	if !s.config.Roles[Worker] || s.config.Broker != InKafka || len(s.config.KafkaBrokers) == 0 {
		return nil
	}
	health := postgres.NewHealthCheck(s.DSN, s.log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		health.Run(ctx)
	}()
	s.onStop(func(context.Context) error { cancel(); <-done; return nil })
	return health.Failing
}

// ensureTopics creates missing topics, and retries until it succeeds or the service stops.
func (s *Instance) ensureTopics(ctx context.Context) bool {
	for {
		limit, err := s.broker.Ensure(ctx, s.core.topics)
		if err != nil && s.broker.TopicFault(err) { // sending to other topics works; the relay retries these
			s.log.Error("cannot create a topic", "error", err)
			err = nil
		}
		if err == nil {
			s.limit.Store(int64(limit))
			if _, err := s.broker.Ensure(ctx, s.core.externalTopics); err != nil {
				s.log.Warn("cannot create topics of external services, waiting for their owners", "error", err)
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

// newBreaker makes a circuit breaker with these settings and registers it by its name.
func (s *Instance) newBreaker(settings gobreaker.Settings, failed func(error) bool) *breaker.Breaker {
	b := breaker.New(settings, breaker.Options{Failed: failed, OnChange: s.telemetry.BreakerChanged, Stopping: s.stopping})
	s.breakers[settings.Name] = b
	return b
}

// startRelay starts the relay on instances with the role relay. Other instances notify the relays after their commits.
func (s *Instance) startRelay(ctx context.Context, _ func(string)) error {
	notifier := outbox.NewNotifier(s.db)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		notifier.Run(ctx)
	}()
	s.onStop(func(context.Context) error { cancel(); <-done; return nil })
	if !s.config.Roles[Relay] {
		s.core.wake, s.core.offer = notifier.NotifyAll, notifier.Notify
		return nil
	}
	senders, err := s.broker.Senders(func() int { return int(s.limit.Load()) })
	if err != nil {
		return err
	}
	// A call through the breaker is a whole batch. After each failure the relay waits longer before the next batch.
	down := func(err error) bool {
		return err != nil && !s.broker.Refused(err) && !s.broker.TopicFault(err) && !errors.Is(err, outbox.ErrLeaseLost)
	}
	guard := s.newBreaker(breaker.Settings(s.broker.Name(), 3, 0.5), down)
	s.relay = outbox.NewRelay(s.db, func() outbox.Sender { return guarded{senders(), guard, down} }, s.log, outbox.Options{
		DSN: s.DSN, Host: s.host, Since: s.since, Refused: s.broker.Refused, TopicFault: s.broker.TopicFault, Repair: s.repairTopic, Ping: s.broker.Ping,
		OnRelayed: s.telemetry.Relayed, Batch: memoryFor(250, relayShare, 20), Local: s.localTopics(), Preferred: s.preferredShards,
		OnBlocked: func(string, string, error) { s.telemetry.Failed("relay", "dead") },
	})
	s.core.wake = func() {
		s.relay.Wake()
		if !s.relay.HoldsAll() {
			notifier.NotifyAll()
		}
	}
	s.core.offer = func(written []*outbox.Message) { notifier.Notify(s.relay.Offer(written)) }
	s.core.uow.Committing = s.relay.Committing
	relayCtx, stop := context.WithCancel(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		if s.ensureTopics(relayCtx) { // also for the topics' limit, which the publisher must know
			if s.config.Debezium {
				markers := s.config.TopicPrefix + ".outbox.markers"
				if _, err := s.broker.Ensure(relayCtx, []string{markers}); err != nil && relayCtx.Err() == nil {
					s.log.Warn("cannot create the topic of markers: Debezium may not confirm the last outbox rows", "topic", markers, "error", err)
				}
				s.relay.RunTimers(relayCtx, s.config.DebeziumSlot, markers)
				return
			}
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

// repairTopic creates a topic of this service again if it was deleted.
func (s *Instance) repairTopic(ctx context.Context, topic string) error {
	if !slices.Contains(s.core.topics, topic) {
		return nil // the owner of the topic creates it
	}
	_, err := s.broker.Ensure(ctx, []string{topic})
	return err
}

// guarded is the relay's sender behind a circuit breaker. The breaker counts only faults of the broker.
type guarded struct {
	outbox.Sender
	guard *breaker.Breaker
	down  func(error) bool
}

// Send implements outbox.Sender.
func (s guarded) Send(ctx context.Context, topics []string, messages []*message.Message) (errs []error) {
	err := s.guard.Do(func() error {
		errs = s.Sender.Send(ctx, topics, messages)
		for _, err := range errs {
			if s.down(err) {
				return err
			}
		}
		return nil
	})
	if errs == nil { // the breaker is open
		errs = slices.Repeat([]error{err}, len(messages))
	}
	return errs
}

// Offer implements outbox.Local.
func (s guarded) Offer(topic string, msg *message.Message, more bool, done func(acked bool)) (taken bool) {
	to, ok := s.Sender.(outbox.Local)
	return ok && to.Offer(topic, msg, more, done)
}

// Ready implements outbox.Local.
func (s guarded) Ready() bool {
	to, ok := s.Sender.(outbox.Local)
	return ok && to.Ready()
}

// Forget implements outbox.Local.
func (s guarded) Forget() {
	if to, ok := s.Sender.(outbox.Local); ok {
		to.Forget()
	}
}

// Claim implements outbox.Claimer.
func (s guarded) Claim(topic, key string) (release func(), deliver outbox.Deliver) {
	to, can := s.Sender.(outbox.Claimer)
	if !can {
		return nil, nil
	}
	return to.Claim(topic, key)
}

// Close closes the sender's connections.
func (s guarded) Close() {
	if c, ok := s.Sender.(interface{ Close() }); ok {
		c.Close()
	}
}
