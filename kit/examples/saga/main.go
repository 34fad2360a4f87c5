// Command saga shows a saga in a Watermill program. Its commands and events use Watermill's command bus, event bus and processors, and the
// participants are Watermill handlers. A step is refused, so the saga compensates the steps before it.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

func main() {
	if err := run(context.Background(), os.Getenv("POSTGRES_DSN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dsn string) error {
	db, err := postgres.Open(dsn, 10)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := migrations.New(nil).Up(ctx, db.DB); err != nil {
		return err
	}

	// Watermill's buses publish into the outbox; a relay forwards the messages to the broker.
	logger, json, publisher := watermill.NopLogger{}, wcqrs.JSONMarshaler{GenerateName: wcqrs.StructName}, outbox.NewPublisher(0, nil)
	commands, err := wcqrs.NewCommandBusWithConfig(publisher, wcqrs.CommandBusConfig{
		GeneratePublishTopic: func(p wcqrs.CommandBusGeneratePublishTopicParams) (string, error) { return p.CommandName, nil },
		OnSend:               messaging.OnSend, Marshaler: json,
	})
	if err != nil {
		return err
	}
	events, err := wcqrs.NewEventBusWithConfig(publisher, wcqrs.EventBusConfig{
		GeneratePublishTopic: func(wcqrs.GenerateEventPublishTopicParams) (string, error) { return "events", nil },
		OnPublish:            messaging.OnPublish, Marshaler: json,
	})
	if err != nil {
		return err
	}
	broker := gochannel.NewGoChannel(gochannel.Config{}, logger)
	relay := outbox.NewRelay(db, outbox.PublisherSender(broker), slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn})
	relayCtx, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() { relay.Run(relayCtx); close(stopped) }()
	defer func() { stop(); <-stopped }()

	// The saga. Its instances are streams of the event store.
	store := eventstore.New(db, saga.HistoryTypes)
	uow := postgres.NewUnitOfWork(db, store, messaging.EventsFromBus(events), time.Now)
	uow.OnCommit = func([]cqrs.Event, []*outbox.Message) { relay.Wake() }
	booking := saga.New(definition)
	sagas := &manager.Manager{Sagas: []*saga.Saga{booking}, Streams: store, Commands: messaging.CommandsFromBus(commands)}

	// Watermill's router and processors.
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	commandProcessor, err := wcqrs.NewCommandProcessorWithConfig(router, wcqrs.CommandProcessorConfig{
		GenerateSubscribeTopic: func(p wcqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) { return p.CommandName, nil },
		SubscriberConstructor: func(wcqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return broker, nil
		},
		Marshaler: json,
	})
	if err != nil {
		return err
	}
	timeouts := wcqrs.NewCommandHandler("timeouts", func(ctx context.Context, t *saga.Timeout) error { return sagas.Timeout(ctx, *t) })
	for _, h := range append(participants(events), timeouts) {
		added, err := commandProcessor.AddHandler(h)
		if err != nil {
			return err
		}
		added.AddMiddleware(messaging.CommandInbox(uow, "trips"))
	}
	eventProcessor, err := wcqrs.NewEventGroupProcessorWithConfig(router, wcqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(wcqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) { return "events", nil },
		SubscriberConstructor: func(wcqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return broker, nil
		},
		AckOnUnknownEvent: true, Marshaler: json,
	})
	if err != nil {
		return err
	}
	if err := eventProcessor.AddHandlersGroup("saga", messaging.SagaHandlers("saga", booking, sagas, uow)...); err != nil {
		return err
	}
	if err := eventProcessor.AddHandlersGroup("end", wcqrs.NewGroupEventHandler(func(_ context.Context, e *saga.Compensated) error {
		fmt.Println("saga compensated:", e.Reason)
		go router.Close()
		return nil
	})); err != nil {
		return err
	}

	go func() {
		<-router.Running()
		if err := uow.Within(ctx, func(ctx context.Context) error { return events.Publish(ctx, TripRequested{"trip-1", "Rome"}) }); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return router.Run(ctx)
}
