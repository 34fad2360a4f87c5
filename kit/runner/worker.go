package runner

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/settings"
)

// startWorker starts the consumers of commands, sagas and projections on instances with the role worker.
func (s *Instance) startWorker(ctx context.Context, _ func(string)) error {
	if !s.config.Roles[Worker] {
		return nil
	}
	down := func(err error) bool { return cqrs.KindOf(err) == cqrs.KindUnavailable }
	guards := map[string]message.HandlerMiddleware{}
	s.guard(down)
	for destination, b := range s.guards {
		guards[destination] = b.Middleware
	}
	router, err := messaging.NewRouter(messaging.Config{
		Prefix: s.config.TopicPrefix, Marshaler: s.core.marshaler, Codecs: s.def.Codecs, Subscriber: s.broker.Subscriber, Inbox: s.core.uow, UnitOfWork: s.core.uow, Projecting: s.core.projecting,
		Events: s.core.events, KeyQueue: s.core.keyQueue, Decorate: s.telemetry.Decorator("message"), Clock: s.clock, Log: s.log,
		Watermill: s.watermill, Stopping: s.stopping, OnFailure: s.telemetry.Failed, InFlight: s.telemetry.InFlight, Breakers: guards,
	})
	if err != nil {
		return err
	}
	s.router = router
	if err := router.AddCommands(s.core.handlers); err != nil {
		return err
	}
	for _, topic := range s.localTopics() {
		s.broker.(broker.LocalDelivery).HandOver(topic, topic) // the group has the topic's name
	}
	for _, versions := range byName(s.core.sagas) {
		if err := router.AddSaga(s.saga(versions[0].Name()), s.core.manager, s.sources(versions)); err != nil {
			return err
		}
	}
	if s.config.LocalDelivery {
		s.core.manager.StartsInline = s.handlesAll
		s.core.uow.Inline = router.Inline()
		if s.relay != nil {
			s.core.uow.InlineCommands = postgres.InlineCommands{Command: s.inlineCommand, Claim: s.relay.Claim}
		}
	}
	for _, p := range s.def.readModels() {
		if p.Inline {
			continue
		}
		if err := router.AddProjection(p.Projection); err != nil {
			return err
		}
	}
	for _, a := range s.core.consumers {
		if err := router.AddConsumer(a, s.config.ExternalPrefixes[a.From]); err != nil {
			return err
		}
	}
	if err := s.addOwn(); err != nil {
		return fmt.Errorf("add the service's own message handlers: %w", err)
	}
	s.runJanitor(ctx)
	s.runVersionCheck(ctx)
	s.runKeyQueue(ctx) // before the router, so that the key queue stops after it
	return s.runRouter(ctx)
}

// localTopics are the topics of the commands that the relay may hand over to consumers in this process.
func (s *Instance) localTopics() (topics []string) {
	if _, can := s.broker.(broker.LocalDelivery); !can || !s.config.LocalDelivery || !s.config.Roles[Worker] {
		return nil
	}
	for _, h := range s.core.handlers {
		if topic := messaging.CommandTopic(s.config.TopicPrefix, h.Destination); h.Service == "" && !slices.Contains(topics, topic) {
			topics = append(topics, topic)
		}
	}
	return topics
}

// handlesAll reports whether this instance alone relays and handles the commands of the service and hands them over, so that commands do not need
// the broker.
func (s *Instance) handlesAll() bool {
	to, can := s.broker.(broker.LocalDelivery)
	return can && s.relay != nil && s.relay.HoldsAll() && s.relay.HandsOver() && to.HandsOverAll()
}

// preferredShards are the shards of the outbox that the relay of this instance should hold, because handlers in this process receive their commands.
func (s *Instance) preferredShards() []int16 {
	if to, can := s.broker.(broker.LocalDelivery); can && s.config.LocalDelivery {
		return to.Shards()
	}
	return nil
}

// inlineCommand returns a message as a command that may be handled in the unit of work that sends it, or handed over after the commit.
func (s *Instance) inlineCommand(topic string, msg *message.Message) *cqrs.InlineCommand {
	c := s.router.InlineCommand(topic, msg)
	if c != nil && (len(s.def.Middleware) > 0 || s.def.Router != nil) {
		c.Handle = nil // the command must pass the service's own middleware
	}
	return c
}

// sources are the types of aggregates whose events one of these versions of a saga handles.
func (s *Instance) sources(versions []*saga.Saga) (all []messaging.Source) {
	for _, sg := range versions {
		for _, t := range sg.EventTypes() {
			source, _ := s.def.sourceOf(t) // checkSagas has checked it
			at := slices.IndexFunc(all, func(known messaging.Source) bool {
				return known.Service == source.Service && known.Category == source.Category
			})
			if at < 0 {
				source.Types, source.Prefix = saga.AnswerTypes(), s.config.ExternalPrefixes[source.Service]
				all, at = append(all, source), len(all)
			}
			if !slices.Contains(all[at].Types, t) {
				all[at].Types = append(all[at].Types, t)
			}
		}
	}
	return all
}

// byName groups the versions of each definition.
func byName(all []*saga.Saga) map[string][]*saga.Saga {
	out := map[string][]*saga.Saga{}
	for _, s := range all {
		out[s.Name()] = append(out[s.Name()], s)
	}
	return out
}

// sweepEvery is the pause between two deletions of rows whose retention is over.
const sweepEvery = 10 * time.Minute

func (s *Instance) runJanitor(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		postgres.NewJanitor(s.db, s.config.Retention, sweepEvery, s.log).Run(ctx)
	}()
	s.onStop(func(context.Context) error { cancel(); <-done; return nil })
}

// checkRetention returns an error if INBOX_RETENTION is so short that ids are deleted while Kafka can still redeliver the messages.
func (s *Instance) checkRetention() error {
	if s.config.Retention.Inbox == 0 {
		return nil
	}
	longest, topic, unknown, err := s.broker.LongestRetention(s.core.topics)
	if err != nil {
		s.log.Warn("cannot compare INBOX_RETENTION with the topics' retention.ms", "error", err)
		return nil
	}
	if len(unknown) > 0 {
		s.log.Warn("missing right DESCRIBE_CONFIGS to compare INBOX_RETENTION with the retention.ms of topics; INBOX_RETENTION must be longer", "topics", unknown)
	}
	if longest > s.config.Retention.Inbox {
		return &settings.Error{Name: "INBOX_RETENTION", Fault: fmt.Sprintf("%s is shorter than topic %s keeps messages (retention.ms: %s), so a message could be processed twice; 0 keeps message ids for ever",
			s.config.Retention.Inbox, topic, shownRetention(longest))}
	}
	s.checkExternalRetention()
	return nil
}

// checkExternalRetention logs a warning if topics of external services keep messages for longer than the inbox keeps ids. The service starts
// anyway, because the other service may change its topics at any time.
func (s *Instance) checkExternalRetention() {
	longest, topic, _, err := s.broker.LongestRetention(s.core.consumedTopics)
	if err == nil && longest > s.config.Retention.Inbox {
		s.log.Warn("external topic keeps messages for longer than INBOX_RETENTION: if the consumer's offsets are lost, messages could be processed twice; 0 keeps message ids for ever",
			"topic", topic, "retention", shownRetention(longest), "inbox_retention", s.config.Retention.Inbox)
	}
}

func shownRetention(d time.Duration) string {
	if d == kafka.Forever {
		return "for ever"
	}
	return d.String()
}

// runKeyQueue starts the key queue, which redelivers messages that wait for a retry to their consumers.
func (s *Instance) runKeyQueue(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.core.keyQueue.Run(ctx, s.log)
	}()
	s.onStop(func(context.Context) error { cancel(); <-done; return nil })
}

func (s *Instance) runRouter(ctx context.Context) error {
	waiting := "for Kafka's topics"
	s.workerOK.Store(&waiting)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !s.ensureTopics(ctx) {
			return
		}
		if err := s.checkRetention(); err != nil {
			s.failed <- err
			return
		}
		s.workerOK.Store(nil)
		// Run gets a context that is never cancelled, because Close must end the router.
		if err := s.router.Run(context.WithoutCancel(ctx)); err != nil {
			s.failed <- fmt.Errorf("worker: %w", err)
		}
	}()
	s.onStop(func(ctx context.Context) error {
		cancel()
		return closeRouter(ctx, s.router, done)
	})
	return nil
}

// closeRouter closes a router and waits until done, which is closed when the router's Run has returned. Watermill's Close would wait for handlers
// that were never started if the router is still subscribing, so closeRouter waits until the router runs or has ended.
func closeRouter(ctx context.Context, router interface {
	Running() chan struct{}
	Close() error
}, done <-chan struct{}) error {
	closed := make(chan error, 1)
	go func() {
		select {
		case <-router.Running():
			closed <- router.Close()
		case <-done: // the router never ran
			closed <- nil
		}
	}()
	select {
	case err := <-closed:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("close the message router: %w", ctx.Err())
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the message router: %w", ctx.Err())
	}
}
