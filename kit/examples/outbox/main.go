// Command outbox shows the transactional outbox: a program writes its own table and a message in one transaction, through watermill-sql's
// publisher, and a relay forwards the message to any Watermill publisher.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/migrations"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

func main() {
	if err := run(context.Background(), os.Getenv("POSTGRES_DSN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dsn string) error {
	db, err := postgres.Open(dsn, 8)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := migrations.New(nil).Up(ctx, db.DB); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY)`); err != nil {
		return err
	}

	// The broker: any Watermill publisher, for example that of watermill-kafka.
	broker := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	placed, err := broker.Subscribe(ctx, "orders.placed")
	if err != nil {
		return err
	}

	// The relay reads the outbox and publishes. It finds a committed message by itself within a second; Wake makes that at once.
	relay := outbox.NewRelay(db, outbox.PublisherSender(broker), slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn})
	relayCtx, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		relay.Run(relayCtx)
	}()
	defer func() { stop(); <-stopped }()

	for _, order := range []string{"order-1", "order-2", "order-3"} {
		if err := placeOrder(ctx, db.DB, order, order == "order-2"); err != nil {
			fmt.Println(order, "failed:", err)
		}
	}
	relay.Wake()

	for range 2 {
		msg := <-placed
		fmt.Println("received:", string(msg.Payload))
		msg.Ack()
	}
	return nil
}

// placeOrder writes a row of the program's own and a message: both or none.
func placeOrder(ctx context.Context, db *sql.DB, id string, soldOut bool) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id) VALUES ($1)`, id); err != nil {
		return err
	}
	publisher, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: outbox.Schema{}}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	if err := publisher.Publish("orders.placed", message.NewMessage(watermill.NewUUID(), []byte(id+" placed"))); err != nil {
		return err
	}
	if soldOut {
		return fmt.Errorf("sold out") // the deferred rollback removes the message too
	}
	return tx.Commit()
}
