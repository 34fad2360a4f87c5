package messaging_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/keyqueue"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// ItemPacked is an event that a handler made by Watermill's constructor handles.
type ItemPacked struct{ Box, Item string }

// program is a plain Watermill program: a router, a broker, and handlers that Watermill's constructors make.
type program struct {
	router *message.Router
	broker *gochannel.GoChannel
	queue  *keyqueue.Queue
	json   wcqrs.JSONMarshaler
	stop   func()
}

var discard = slog.New(slog.DiscardHandler)

// start runs a handler of ItemPacked under the middleware.
func start(db *sqlx.DB, handle func(context.Context, *ItemPacked) error, middleware func(*keyqueue.Queue) []message.HandlerMiddleware) *program {
	p := &program{broker: gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{}), queue: keyqueue.New(db)}
	var err error
	if p.router, err = message.NewRouter(message.RouterConfig{}, watermill.NopLogger{}); err != nil {
		panic(err)
	}
	p.router.AddMiddleware(middleware(p.queue)...)
	processor, err := wcqrs.NewEventProcessorWithConfig(p.router, wcqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(wcqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) { return "packed", nil },
		SubscriberConstructor: func(e wcqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return p.queue.Subscriber(e.HandlerName, p.broker), nil
		},
		Marshaler: p.json,
	})
	if err != nil {
		panic(err)
	}
	if err := processor.AddHandlers(wcqrs.NewEventHandler("packing", handle)); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go p.queue.Run(ctx, discard)
	go func() {
		defer close(ended)
		_ = p.router.Run(ctx)
	}()
	<-p.router.Running()
	p.stop = func() { cancel(); _ = p.router.Close(); <-ended }
	return p
}

// publish publishes an event under an id and waits until it is acknowledged. The key of the message is the box.
func (p *program) publish(id string, e ItemPacked) {
	msg, err := p.json.Marshal(e)
	if err != nil {
		panic(err)
	}
	msg.UUID, msg.Metadata[cqrs.HeaderKey] = id, e.Box
	if err := p.broker.Publish("packed", msg); err != nil {
		panic(err)
	}
}

type box struct {
	aggregate.Root[ItemPacked]
	items int
}

func openBox(history []ItemPacked) *box {
	b := &box{}
	b.Replay(b.apply, history)
	return b
}

func (b *box) apply(ItemPacked) { b.items++ }

// The broker delivers a message twice. At the second delivery its inbox row exists, so the handler is not called.
func ExampleInbox() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	store := eventstore.New(db, aggregate.TypesOf(aggregate.NewType[ItemPacked]("item.packed")))
	boxes := eventstore.NewRepository(store, "boxes", openBox, eventstore.Options{})
	uow := postgres.NewUnitOfWork(db, store, nil, time.Now)
	p := start(db, func(ctx context.Context, e *ItemPacked) error {
		return boxes.Update(ctx, e.Box, func(b *box) error { b.Record(b.apply, *e); return nil })
	}, func(*keyqueue.Queue) []message.HandlerMiddleware {
		return []message.HandlerMiddleware{messaging.Inbox(uow)}
	})
	defer p.stop()
	p.publish("message-1", ItemPacked{"box-1", "cup"})
	p.publish("message-1", ItemPacked{"box-1", "cup"})
	b, err := boxes.Load(context.Background(), "box-1")
	fmt.Println("items:", b.items, err)
	// Output: items: 1 <nil>
}

// After a retryable error, the message is stored, acknowledged, and retried later.
func ExampleRetry() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	handled, attempts := make(chan string, 1), 0
	p := start(db, func(_ context.Context, e *ItemPacked) error {
		if attempts++; attempts <= 2 {
			return fmt.Errorf("label printer: %w", cqrs.ErrUnavailable)
		}
		handled <- e.Item
		return nil
	}, func(queue *keyqueue.Queue) []message.HandlerMiddleware {
		o := messaging.Options{Log: discard}
		return []message.HandlerMiddleware{messaging.KeyOrder(queue, o), messaging.Retry(queue, o)}
	})
	defer p.stop()
	p.publish("message-1", ItemPacked{"box-1", "cup"})
	fmt.Println("acknowledged")
	fmt.Println("handled:", <-handled, "attempts:", attempts)
	// Output:
	// acknowledged
	// handled: cup attempts: 3
}

// The first message of a key fails. The second message waits behind the first, and messages of other keys are handled.
func ExampleKeyOrder() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	handled, failed := make(chan string, 3), false
	p := start(db, func(_ context.Context, e *ItemPacked) error {
		if e.Item == "cup" && !failed {
			failed = true
			return fmt.Errorf("label printer: %w", cqrs.ErrUnavailable)
		}
		handled <- e.Box + " " + e.Item
		return nil
	}, func(queue *keyqueue.Queue) []message.HandlerMiddleware {
		o := messaging.Options{Log: discard}
		return []message.HandlerMiddleware{messaging.KeyOrder(queue, o), messaging.Retry(queue, o)}
	})
	defer p.stop()
	p.publish("message-1", ItemPacked{"box-1", "cup"})
	p.publish("message-2", ItemPacked{"box-1", "saucer"})
	p.publish("message-3", ItemPacked{"box-2", "lamp"})
	for range 3 {
		fmt.Println(<-handled)
	}
	// Output:
	// box-2 lamp
	// box-1 cup
	// box-1 saucer
}

// A message that cannot be handled becomes a dead letter, and blocks its key until an operator replays or drops the dead letter.
func ExampleDeadLetters() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	uow := postgres.NewUnitOfWork(db, eventstore.New(db, aggregate.Types{}), nil, time.Now)
	p := start(db, func(_ context.Context, e *ItemPacked) error {
		if e.Item == "" {
			return fmt.Errorf("no item: %w", cqrs.ErrPermanent)
		}
		return nil
	}, func(queue *keyqueue.Queue) []message.HandlerMiddleware {
		o := messaging.Options{Log: discard}
		return []message.HandlerMiddleware{messaging.KeyOrder(queue, o), messaging.DeadLetters(queue, uow, o), messaging.Retry(queue, o)}
	})
	defer p.stop()
	p.publish("message-1", ItemPacked{"box-1", ""})
	p.publish("message-2", ItemPacked{"box-1", "saucer"})
	var deadLetter struct{ Message_id, Consumer, Reason string }
	err := db.Get(&deadLetter, `SELECT message_id, consumer, reason FROM dead_letters`)
	fmt.Printf("dead letter: %v %v\n", deadLetter, err)
	blocked, waiting, err := p.queue.Count(context.Background())
	fmt.Println("blocked keys:", blocked["packing"], "waiting messages:", waiting, err)
	// Output:
	// dead letter: {message-1 packing no item: cannot be processed} <nil>
	// blocked keys: 1 waiting messages: 2 <nil>
}

// A compensation arrives before its action, because the message of the action was delayed. The compensation has nothing to compensate, and the action
// is not handled when it arrives.
func ExampleCommandInbox() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	uow := postgres.NewUnitOfWork(db, eventstore.New(db, aggregate.Types{}), nil, time.Now)
	uow.VerifyDuplicates(time.Minute) // check the inbox row before the handler is called
	handle := messaging.CommandInbox(uow, "seats")(func(msg *message.Message) ([]*message.Message, error) {
		fmt.Println("handled:", msg.UUID)
		return nil, nil
	})
	deliver := func(id, step, branch string) {
		msg := message.NewMessage(id, nil)
		msg.Metadata = message.Metadata{cqrs.HeaderSagaID: "saga-1", cqrs.HeaderSagaStep: step, cqrs.HeaderBranch: branch}
		_, err := handle(msg)
		fmt.Println(id, err)
	}
	deliver("release seat", "reserve seat", "undo")
	deliver("reserve seat", "reserve seat", "do")
	deliver("charge card", "charge card", "do")
	// Output:
	// release seat <nil>
	// reserve seat <nil>
	// handled: charge card
	// charge card <nil>
}
