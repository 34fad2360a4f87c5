package runner_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/runner"
)

func TestMain(m *testing.M) { kittest.Main(m) }

type noted struct{ Text string }

type note struct{ aggregate.Root[noted] }

func (n *note) apply(noted) {}

func rebuild(history []noted) *note {
	n := &note{}
	n.Replay(n.apply, history)
	return n
}

// writeDown is a command that a handler of the kit handles.
type writeDown struct{ ID, Text string }

func (c writeDown) Key() string { return c.ID }

// ping is an event and remind a command of plain Watermill handlers; they use a broker of the service's own.
type (
	ping   struct{ ID string }
	remind struct{ ID string }
)

// A service brings a subscriber, a publisher, handlers and middleware of Watermill and uses them beside the kit's own.
func TestHandlersMiddlewarePublishersAndSubscribersOfWatermill(t *testing.T) {
	_, dsn := kittest.Database(t)
	prefix := "t" + strings.ReplaceAll(watermill.NewUUID(), "-", "")[:12]
	settings := map[string]string{
		"POSTGRES_DSN": dsn, "KAFKA_BROKERS": strings.Join(kittest.Kafka(t), ","), "TOPIC_PREFIX": prefix, "HTTP_ADDR": "127.0.0.1:0", "DATA_DIR": t.TempDir(),
		"KAFKA_PARTITIONS": "1",
	}
	own := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{}) // a publisher and a subscriber of the service's own
	json := wcqrs.JSONMarshaler{}
	notes := runner.AggregateOf("notes", aggregate.TypesOf(aggregate.NewType[noted]("note.noted")), rebuild, eventstore.Options{})
	seen, reminded := make(chan string, 10), make(chan string, 10)
	var attempts, failures atomic.Int64
	service := &runner.Service{
		Name: "notes", Title: "Notes", Aggregates: []runner.Aggregate{notes},
		Commands: func(k *runner.Kit) []cqrs.Handler {
			store := notes.Store(k)
			return cqrs.ForAggregate("notes", cqrs.Handle("WriteDown", func(ctx context.Context, c writeDown) error {
				return store.Update(ctx, c.ID, func(n *note) error { n.Record(n.apply, noted{c.Text}); return nil })
			}))
		},
		Middleware: []message.HandlerMiddleware{middleware.Recoverer, func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				attempts.Add(1)
				return next(msg)
			}
		}},
		Router: func(k *runner.Kit, r *message.Router) error {
			// An event handler on the service's own subscriber. It sends a command of the kit in a unit of work.
			events, err := wcqrs.NewEventProcessorWithConfig(r, wcqrs.EventProcessorConfig{
				GenerateSubscribeTopic: func(wcqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) { return "pings", nil },
				SubscriberConstructor: func(wcqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
					return own, nil
				},
				Marshaler: json,
			})
			if err != nil {
				return err
			}
			added, err := events.AddHandler(wcqrs.NewEventHandler("on ping", func(ctx context.Context, e *ping) error {
				return k.Commands().Send(ctx, cqrs.Command{Body: writeDown{e.ID, "ping"}})
			}))
			if err != nil {
				return err
			}
			added.AddMiddleware(messaging.Inbox(k.Inbox()))

			// A handler on the kit's topic with the kit's subscriber and middleware. It publishes a command to the outbox.
			subscriber, err := k.Subscriber(prefix + ".own.notes")
			if err != nil {
				return err
			}
			bus, err := wcqrs.NewCommandBusWithConfig(k.Publisher(), wcqrs.CommandBusConfig{
				GeneratePublishTopic: func(wcqrs.CommandBusGeneratePublishTopicParams) (string, error) {
					return prefix + ".commands.notes.own", nil
				},
				OnSend: messaging.OnSend, Marshaler: json,
			})
			if err != nil {
				return err
			}
			r.AddConsumerHandler(prefix+".own.notes", messaging.EventTopic(prefix, "notes"), subscriber, func(msg *message.Message) error {
				if failures.Add(1) == 1 {
					return fmt.Errorf("the first attempt: %w", cqrs.ErrUnavailable) // the key queue retries it
				}
				seen <- msg.Metadata[cqrs.HeaderKey]
				return bus.Send(msg.Context(), remind{msg.Metadata[cqrs.HeaderKey]})
			}).AddMiddleware(k.Middleware()...)

			// A command handler of Watermill.
			commands, err := wcqrs.NewCommandProcessorWithConfig(r, wcqrs.CommandProcessorConfig{
				GenerateSubscribeTopic: func(wcqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
					return prefix + ".commands.notes.own", nil
				},
				SubscriberConstructor: func(p wcqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
					return k.Subscriber(p.HandlerName)
				},
				Marshaler: json,
			})
			if err != nil {
				return err
			}
			return commands.AddHandlers(wcqrs.NewCommandHandler(prefix+".remind", func(_ context.Context, c *remind) error {
				reminded <- c.ID
				return nil
			}))
		},
		Database: postgres.Open, EventStore: eventstore.New, Outbox: kittest.Insert,
		Broker: func(e runner.BrokerEnv) (broker.Broker, error) { return broker.Kafka(e.Kafka, e.Options), nil },
	}
	config, err := runner.ReadConfig(service, func(name string) string { return settings[name] })
	require.NoError(t, err)
	kafkaConfig := kafka.Config{Brokers: strings.Split(settings["KAFKA_BROKERS"], ",")}
	_, err = kafka.EnsureTopics(t.Context(), kafkaConfig, []string{prefix + ".commands.notes.own"}, 1)
	require.NoError(t, err)
	instance, err := runner.Start(t.Context(), service, config, slog.New(slog.DiscardHandler), func(string) {})
	require.NoError(t, err)
	t.Cleanup(func() { _ = instance.Stop(context.Background()) })

	receive := func(from <-chan string, what string) string {
		select {
		case s := <-from:
			return s
		case <-time.After(kittest.Patience):
			t.Fatal(what)
			return ""
		}
	}
	msg, err := json.Marshal(ping{"note-1"})
	require.NoError(t, err)
	kittest.Eventually(t, func() error { // messages are lost before the router has subscribed
		if err := own.Publish("pings", msg.Copy()); err != nil || len(seen) == 0 {
			time.Sleep(100 * time.Millisecond)
			return fmt.Errorf("no event yet: %w", err)
		}
		return nil
	})
	require.Equal(t, "note-1", receive(seen, "the event of the kit's command"))
	require.Equal(t, "note-1", receive(reminded, "the command by Watermill's bus"))
	require.GreaterOrEqual(t, attempts.Load(), int64(4), "the middleware is that of all four handlers, the kit's included")
}
