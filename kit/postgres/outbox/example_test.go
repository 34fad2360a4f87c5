package outbox_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// watermill-sql's publisher writes into the outbox in a transaction of the program's own.
func ExampleSchema() {
	db, _, done := kittest.ExampleDatabase()
	defer done()
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		panic(err)
	}
	publisher, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: outbox.Schema{
		Key: func(_ string, msg *message.Message) string { return msg.Metadata["order"] },
	}}, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	msg := message.NewMessage(watermill.NewUUID(), []byte("placed"))
	msg.Metadata["order"] = "order-1"
	fmt.Println("publish:", publisher.Publish("orders", msg))
	backlog, err := outbox.LoadBacklog(ctx, db)
	fmt.Println("before the commit:", backlog.Pending, err)
	fmt.Println("commit:", tx.Commit())
	backlog, err = outbox.LoadBacklog(ctx, db)
	fmt.Println("after the commit:", backlog.Pending, err)
	// Output:
	// publish: <nil>
	// before the commit: 0 <nil>
	// commit: <nil>
	// after the commit: 1 <nil>
}

// A relay forwards the messages of the outbox to any publisher of Watermill's.
func ExampleNewRelay() {
	db, dsn, done := kittest.ExampleDatabase()
	defer done()
	ctx, stop := context.WithCancel(context.Background())
	broker := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	orders, err := broker.Subscribe(context.Background(), "orders")
	if err != nil {
		panic(err)
	}
	publisher, err := wsql.NewPublisher(db, wsql.PublisherConfig{SchemaAdapter: outbox.Schema{}}, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	fmt.Println("publish:", publisher.Publish("orders", message.NewMessage("message-1", []byte("placed"))))

	relay := outbox.NewRelay(db, outbox.PublisherSender(broker), slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		relay.Run(ctx)
	}()
	msg := <-orders
	fmt.Println("received:", msg.UUID, string(msg.Payload))
	msg.Ack()
	stop()
	<-stopped
	// Output:
	// publish: <nil>
	// received: message-1 placed
}
