package messaging

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// idleQueue is a key queue without blocked keys.
type idleQueue struct{ dead chan string }

func (idleQueue) Enqueue(context.Context, cqrs.Received) (bool, error)             { return false, nil }
func (idleQueue) RetryAfter(context.Context, cqrs.Received, time.Duration) error   { return nil }
func (idleQueue) Complete(context.Context, cqrs.Received) error                    { return nil }
func (idleQueue) Subscriber(_ string, inner message.Subscriber) message.Subscriber { return inner }
func (q idleQueue) DeadLetter(_ context.Context, _ cqrs.Received, reason, _ string, _ bool) (string, error) {
	q.dead <- reason
	return "", nil
}

// direct is an inbox and a unit of work that store nothing.
type direct struct{}

func (direct) NeedsProcessing(context.Context, cqrs.Delivery) (bool, error) { return true, nil }
func (direct) Handle(ctx context.Context, _ cqrs.Delivery, work func(context.Context) error) (cqrs.Outcome, error) {
	return cqrs.Processed, work(ctx)
}
func (direct) Within(ctx context.Context, work func(context.Context) error) error { return work(ctx) }

type sendSMS struct{ Text string }

func (sendSMS) Key() string { return "k" }

// A command that was sent under a former name is handled by the handler of its current name. Without Formerly it is a dead letter.
func TestCommandOfAFormerName(t *testing.T) {
	for name, former := range map[string][]string{"send-sms": nil, "send-text": {"send-text"}, "text": {"send-text", "text"}, "other": nil} {
		t.Run(name, func(t *testing.T) {
			handled, queue := make(chan string, 1), idleQueue{make(chan string, 1)}
			h := cqrs.Handle("send-sms", func(ctx context.Context, c sendSMS) error {
				handled <- cqrs.MetaFromContext(ctx).Type + " " + c.Text
				return nil
			}).Formerly(former...)
			h.Category, h.Destination = "messages", "messages"
			topic := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
			r, err := NewRouter(Config{
				Prefix: "p", Marshaler: NewMarshaler(aggregate.TypesOf(h.Type), "/p"), Inbox: direct{}, UnitOfWork: direct{}, KeyQueue: queue, Clock: time.Now,
				Subscriber: func(string, Subscription) (message.Subscriber, error) { return topic, nil },
				Decorate:   func(_ string, next cqrs.Endpoint) cqrs.Endpoint { return next },
				Log:        slog.New(slog.DiscardHandler), Watermill: watermill.NopLogger{},
			})
			require.NoError(t, err)
			require.NoError(t, r.AddCommands([]cqrs.Handler{h}))
			go func() { _ = r.Run(t.Context()) }()
			<-r.Running()
			msg := message.NewMessage("m", []byte(`{"Text":"hello"}`))
			msg.Metadata = message.Metadata{cqrs.HeaderID: "m", cqrs.HeaderType: name, cqrs.HeaderSource: "/p", cqrs.HeaderSchema: "1", cqrs.HeaderKey: "k"}
			require.NoError(t, topic.Publish(CommandTopic("p", "messages"), msg))
			select {
			case got := <-handled:
				require.Equal(t, "send-sms hello", got)
				require.NotEqual(t, "other", name)
			case reason := <-queue.dead:
				require.Equal(t, "other", name)
				require.Contains(t, reason, "unknown type")
			case <-time.After(10 * time.Second):
				t.Fatal("neither handled nor a dead letter")
			}
		})
	}
}
