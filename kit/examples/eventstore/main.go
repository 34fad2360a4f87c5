// Command eventstore shows event sourcing in a Watermill program: an aggregate is stored as events, each append states the version that it
// expects, and all events are read in commit order and published with Watermill's event bus.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/migrations"
)

// MoneyDeposited is the event of an account; it is stored under the name "account.deposited".
type MoneyDeposited struct {
	Cents int `json:"cents"`
}

// Account is the aggregate: it decides, records events, and is rebuilt from them.
type Account struct {
	aggregate.Root[MoneyDeposited]
	balance int
}

func (a *Account) apply(e MoneyDeposited) { a.balance += e.Cents }

func (a *Account) Deposit(cents int) error {
	if cents <= 0 {
		return aggregate.Refuse("the amount must be positive")
	}
	a.Record(a.apply, MoneyDeposited{cents})
	return nil
}

func rebuild(history []MoneyDeposited) *Account {
	a := &Account{}
	a.Replay(a.apply, history)
	return a
}

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
	store := eventstore.New(db, aggregate.TypesOf(aggregate.NewType[MoneyDeposited]("account.deposited")))
	accounts := eventstore.NewRepository(store, "accounts", rebuild, eventstore.Options{})
	uow := postgres.NewUnitOfWork(db, store, nil, time.Now)

	// Load, decide, append: if another program was first, the repository loads and decides again.
	for _, cents := range []int{500, 250, -1} {
		err := uow.Within(ctx, func(ctx context.Context) error {
			return accounts.Update(ctx, "alice", func(a *Account) error { return a.Deposit(cents) })
		})
		fmt.Println("deposit", cents, "error:", err)
	}
	alice, err := accounts.Load(ctx, "alice")
	if err != nil {
		return err
	}
	fmt.Println("balance", alice.balance, "version", alice.Version())

	// An append of one's own states the version that it expects.
	err = uow.Within(ctx, func(ctx context.Context) error {
		return store.Record(ctx, "accounts", "alice", 1, []any{MoneyDeposited{1}})
	})
	fmt.Println("append after version 1: conflict:", errors.Is(err, cqrs.ErrConflict))

	// All events in commit order, without a gap, to Watermill's event bus.
	broker := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 10}, watermill.NopLogger{})
	published, err := broker.Subscribe(ctx, "events")
	if err != nil {
		return err
	}
	bus, err := wcqrs.NewEventBusWithConfig(broker, wcqrs.EventBusConfig{
		GeneratePublishTopic: func(wcqrs.GenerateEventPublishTopicParams) (string, error) { return "events", nil },
		Marshaler:            wcqrs.JSONMarshaler{},
	})
	if err != nil {
		return err
	}
	events, err := store.Read(0).Next(ctx, 100) // Read takes the position of the last event that was read; a program stores it
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := bus.Publish(ctx, e.Body); err != nil {
			return err
		}
		msg := <-published
		fmt.Println("published", msg.Metadata.Get("name"), string(msg.Payload), "position", e.Position)
		msg.Ack()
	}
	return nil
}
