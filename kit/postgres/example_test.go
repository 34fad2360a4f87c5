package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// deposited is the only event of an account.
type deposited struct{ Amount int }

type account struct {
	aggregate.Root[deposited]
	balance int
}

func open(history []deposited) *account {
	a := &account{}
	a.Replay(a.apply, history)
	return a
}

func (a *account) apply(e deposited) { a.balance += e.Amount }

func (a *account) deposit(n int) { a.Record(a.apply, deposited{n}) }

// An aggregate is loaded, decides, and is appended; its event goes into the outbox in the same transaction. What fails leaves nothing.
// Then a relay takes the message to a publisher of Watermill's.
func Example() {
	db, dsn, done := kittest.ExampleDatabase()
	defer done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	types := aggregate.TypesOf(aggregate.NewType[deposited]("account.deposited"))
	store := eventstore.New(db, types)
	bus, err := messaging.NewEventBus("bank", outbox.NewPublisher(1_000_000, kittest.Insert), messaging.NewMarshaler(types, "/bank"), time.Now, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	accounts := eventstore.NewRepository(store, "accounts", open, eventstore.Options{})
	uow := postgres.NewUnitOfWork(db, store, bus, time.Now)
	deposit := func(n int, fail error) error {
		return uow.Within(ctx, func(ctx context.Context) error {
			return errors.Join(accounts.Update(ctx, "a1", func(a *account) error { a.deposit(n); return nil }), fail)
		})
	}
	fmt.Println("deposit:", deposit(5, nil))
	fmt.Println("failure:", deposit(7, errors.New("no")))
	a, err := accounts.Load(ctx, "a1")
	fmt.Println("balance:", a.balance, err)
	waiting, err := outbox.LoadBacklog(ctx, db)
	fmt.Println("in the outbox:", waiting.Pending, err)

	broker := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	relay := outbox.NewRelay(db, outbox.PublisherSender(broker), slog.New(slog.DiscardHandler), outbox.Options{DSN: dsn, Refused: func(error) bool { return false }})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		relay.Run(ctx)
	}()
	incoming, err := broker.Subscribe(ctx, "bank.events.accounts")
	if err != nil {
		panic(err)
	}
	msg := <-incoming
	msg.Ack()
	fmt.Println("sent:", msg.Metadata[cqrs.HeaderType], msg.Metadata[cqrs.HeaderKey], string(msg.Payload))
	cancel()
	<-stopped

	// Output:
	// deposit: <nil>
	// failure: no
	// balance: 5 <nil>
	// in the outbox: 1 <nil>
	// sent: account.deposited a1 {"Amount":5}
}
