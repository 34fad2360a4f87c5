package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/kafka"
)

// stockSagas is order fulfilment as Watermill's documentation would have it wired: a CommandProcessor with a topic for each command, an
// EventGroupProcessor for the saga, both on watermill-kafka with its default settings; each handler in a transaction of its own, in
// which it notes the message, appends an event and publishes by the SQL publisher behind the forwarder's. Its gateways answer at once,
// without a call. Its orders are placed in the database, without HTTP.
type stockSagas struct {
	g    *environment
	poll time.Duration // of the forwarder; 0: the default

	commands  *cqrs.CommandBus
	events    *cqrs.EventBus
	confirmed atomic.Int64
	mu        sync.Mutex
	waiting   map[string]chan struct{}
}

// six is what all messages are.
type six struct{ OrderID, SKU string }

type (
	orderPlaced six

	reserveStock     six
	stockReserved    six
	authorisePayment six
	paymentHeld      six
	bookShipment     six
	shipmentBooked   six
	capturePayment   six
	paymentCaptured  six
	takeStockOut     six
	stockTaken       six
	confirmOrder     six
	orderConfirmed   six
)

type sixth interface{ ~struct{ OrderID, SKU string } }

func (s *stockSagas) prepare(ctx context.Context) error {
	queries := []string{
		`CREATE TABLE stock_inbox (message_id text PRIMARY KEY)`,
		`CREATE TABLE stock_events (stream text, version int, type text, payload jsonb, PRIMARY KEY (stream, version))`,
		`CREATE TABLE stock_orders (id text PRIMARY KEY, state text NOT NULL)`,
	}
	for _, q := range (wsql.DefaultPostgreSQLSchema{}).SchemaInitializingQueries(stockTopic) {
		queries = append(queries, q.Query)
	}
	for _, q := range queries {
		if _, err := s.g.db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (s *stockSagas) topic(name string) string { return "stock" + s.g.stamp + "." + name }

const sagaTopic = "events"

// start has everything run until what it returns is called.
func (s *stockSagas) start(ctx context.Context) (stop func() error, err error) {
	s.waiting = map[string]chan struct{}{}
	logger := watermill.NopLogger{}
	marshaler := cqrs.JSONMarshaler{GenerateName: cqrs.StructName}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return nil, err
	}
	outside, err := (&stock{}).forward(s.g, s.poll)
	if err != nil {
		return nil, err
	}
	s.commands, s.events, err = s.buses(marshaler, outboxOf{})
	if err != nil {
		return nil, err
	}
	subscriber := func(group string) (message.Subscriber, error) {
		config := wkafka.DefaultSaramaSubscriberConfig()
		config.Consumer.Offsets.Initial = -2 // the oldest
		return wkafka.NewSubscriber(wkafka.SubscriberConfig{
			Brokers: s.g.brokers, Unmarshaler: wkafka.DefaultMarshaler{}, ConsumerGroup: "stock" + s.g.stamp + group, OverwriteSaramaConfig: config,
		}, logger)
	}
	commands, err := cqrs.NewCommandProcessorWithConfig(router, cqrs.CommandProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
			return s.topic(p.CommandName), nil
		},
		SubscriberConstructor: func(p cqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return subscriber(p.HandlerName)
		},
		Marshaler: marshaler, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	events, err := cqrs.NewEventGroupProcessorWithConfig(router, cqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(cqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
			return s.topic(sagaTopic), nil
		},
		SubscriberConstructor: func(cqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return subscriber("saga")
		},
		Marshaler: marshaler, Logger: logger, AckOnUnknownEvent: true,
	})
	if err != nil {
		return nil, err
	}
	if err := commands.AddHandlers(
		handles[reserveStock, stockReserved](s), handles[authorisePayment, paymentHeld](s), handles[bookShipment, shipmentBooked](s),
		handles[capturePayment, paymentCaptured](s), handles[takeStockOut, stockTaken](s), handles[confirmOrder, orderConfirmed](s),
	); err != nil {
		return nil, err
	}
	if err := events.AddHandlersGroup("saga",
		reacts[orderPlaced, reserveStock](s), reacts[stockReserved, authorisePayment](s), reacts[paymentHeld, bookShipment](s),
		reacts[shipmentBooked, capturePayment](s), reacts[paymentCaptured, takeStockOut](s), reacts[stockTaken, confirmOrder](s),
		cqrs.NewGroupEventHandler(func(ctx context.Context, e *orderConfirmed) error {
			if err := s.within(ctx, func(_ context.Context, tx *sqlx.Tx) error { return s.moves(tx, e.OrderID, "confirmed") }); err != nil {
				return err
			}
			s.confirmed.Add(1)
			s.mu.Lock()
			defer s.mu.Unlock()
			if waits, ok := s.waiting[e.OrderID]; ok {
				close(waits)
			}
			return nil
		}),
	); err != nil {
		return nil, err
	}
	var topics []string
	for _, v := range []any{reserveStock{}, authorisePayment{}, bookShipment{}, capturePayment{}, takeStockOut{}, confirmOrder{}} {
		topics = append(topics, s.topic(marshaler.Name(v)))
	}
	if _, err := kafka.EnsureTopics(ctx, kafka.Config{Brokers: s.g.brokers, ClientID: "bench"}, append(topics, s.topic(sagaTopic)), partitions); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(ctx)) }()
	<-router.Running()
	return func() error { return errors.Join(router.Close(), <-done, outside()) }, nil
}

func (s *stockSagas) buses(marshaler cqrs.JSONMarshaler, publisher message.Publisher) (*cqrs.CommandBus, *cqrs.EventBus, error) {
	commands, err := cqrs.NewCommandBusWithConfig(publisher, cqrs.CommandBusConfig{
		GeneratePublishTopic: func(p cqrs.CommandBusGeneratePublishTopicParams) (string, error) { return s.topic(p.CommandName), nil },
		OnSend:               func(p cqrs.CommandBusOnSendParams) error { return keyed(p.Message) },
		Marshaler:            marshaler,
	})
	if err != nil {
		return nil, nil, err
	}
	events, err := cqrs.NewEventBusWithConfig(publisher, cqrs.EventBusConfig{
		GeneratePublishTopic: func(cqrs.GenerateEventPublishTopicParams) (string, error) { return s.topic(sagaTopic), nil },
		OnPublish:            func(p cqrs.OnEventSendParams) error { return keyed(p.Message) },
		Marshaler:            marshaler,
	})
	return commands, events, err
}

// keyed has the messages of an order keep their order.
func keyed(msg *message.Message) error {
	var m six
	err := json.Unmarshal(msg.Payload, &m)
	msg.Metadata.Set("key", m.OrderID)
	return err
}

// outboxOf publishes in the transaction of the message's context.
type outboxOf struct{}

type txKey struct{}

func (outboxOf) Publish(topic string, messages ...*message.Message) error {
	tx, ok := messages[0].Context().Value(txKey{}).(*sqlx.Tx)
	if !ok {
		return errors.New("published outside a transaction")
	}
	inner, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: wsql.DefaultPostgreSQLSchema{}}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	return forwarder.NewPublisher(inner, forwarder.PublisherConfig{ForwarderTopic: stockTopic}).Publish(topic, messages...)
}

func (outboxOf) Close() error { return nil }

// within is one handler's transaction. A message that was handled before does nothing.
func (s *stockSagas) within(ctx context.Context, work func(ctx context.Context, tx *sqlx.Tx) error) error {
	tx, err := s.g.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after a commit
	if msg := cqrs.OriginalMessageFromCtx(ctx); msg != nil {
		noted, err := tx.ExecContext(ctx, `INSERT INTO stock_inbox VALUES ($1) ON CONFLICT DO NOTHING`, msg.UUID)
		if err != nil {
			return err
		}
		if n, err := noted.RowsAffected(); err != nil || n == 0 {
			return err
		}
	}
	if err := work(context.WithValue(ctx, txKey{}, tx), tx); err != nil {
		return err
	}
	return tx.Commit()
}

// handles makes the handler of a command: load the aggregate's events, append one, publish it.
func handles[C, E sixth](s *stockSagas) cqrs.CommandHandler {
	name := cqrs.StructName(new(C))
	return cqrs.NewCommandHandler(name, func(ctx context.Context, c *C) error {
		return s.within(ctx, func(ctx context.Context, tx *sqlx.Tx) error {
			event := E(*c)
			if err := s.appends(ctx, tx, six(event), cqrs.StructName(event)); err != nil {
				return err
			}
			return s.events.Publish(ctx, event)
		})
	})
}

func (s *stockSagas) appends(ctx context.Context, tx *sqlx.Tx, m six, name string) error {
	stream := "orders/" + m.OrderID
	var before []string
	if err := tx.SelectContext(ctx, &before, `SELECT payload FROM stock_events WHERE stream = $1 ORDER BY version`, stream); err != nil {
		return err
	}
	payload, err := json.Marshal(m)
	if err == nil {
		_, err = tx.ExecContext(ctx, `INSERT INTO stock_events VALUES ($1, $2, $3, $4)`, stream, len(before)+1, name, payload)
	}
	return err
}

// reacts makes the saga's handler of an event: the next state, the next command.
func reacts[E, C sixth](s *stockSagas) cqrs.GroupEventHandler {
	name := cqrs.StructName(new(C))
	return cqrs.NewGroupEventHandler(func(ctx context.Context, e *E) error {
		return s.within(ctx, func(ctx context.Context, tx *sqlx.Tx) error {
			if err := s.moves(tx, six(*e).OrderID, name); err != nil {
				return err
			}
			return s.commands.Send(ctx, C(*e))
		})
	})
}

func (s *stockSagas) moves(tx *sqlx.Tx, order, state string) error {
	var before string
	if err := tx.Get(&before, `SELECT state FROM stock_orders WHERE id = $1 FOR UPDATE`, order); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE stock_orders SET state = $2 WHERE id = $1`, order, state)
	return err
}

// place places an order.
func (s *stockSagas) place(ctx context.Context, id string) error {
	return s.within(ctx, func(ctx context.Context, tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO stock_orders VALUES ($1, 'placed')`, id); err != nil {
			return err
		}
		return s.events.Publish(ctx, orderPlaced{OrderID: id, SKU: "SKU-1"})
	})
}

// stocked measures it: the rate of some orders, and the median of single ones.
func stocked(ctx context.Context, g *environment, poll time.Duration, orders, probes int) (perSecond, p50 float64, err error) {
	s := &stockSagas{g: g, poll: poll}
	if err := s.prepare(ctx); err != nil {
		return 0, 0, err
	}
	stop, err := s.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, err := s.run(ctx, orders/5); err != nil { // to get warm
		return 0, 0, err
	}
	took, err := s.run(ctx, orders)
	if err != nil {
		return 0, 0, err
	}
	var single []time.Duration
	for range probes {
		began, id, waits := time.Now(), uuid.NewString(), make(chan struct{})
		s.mu.Lock()
		s.waiting[id] = waits
		s.mu.Unlock()
		if err := s.place(ctx, id); err != nil {
			return 0, 0, err
		}
		select {
		case <-waits:
		case <-time.After(time.Minute):
			return 0, 0, errors.New("a stock saga did not end within a minute")
		}
		single = append(single, time.Since(began))
	}
	slices.Sort(single)
	return float64(orders) / took.Seconds(), ms(single[len(single)/2]), nil
}

func (s *stockSagas) run(ctx context.Context, orders int) (time.Duration, error) {
	began, want := time.Now(), s.confirmed.Load()+int64(orders)
	work := make(chan string)
	var clients sync.WaitGroup
	failed := make(chan error, 32)
	for range 32 {
		clients.Go(func() {
			for id := range work {
				if err := s.place(ctx, id); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for range orders {
		select {
		case work <- uuid.NewString():
		case err := <-failed:
			return 0, err
		}
	}
	close(work)
	clients.Wait()
	for s.confirmed.Load() < want {
		if time.Since(began) > 10*time.Minute || ctx.Err() != nil {
			return 0, fmt.Errorf("%d of %d stock sagas ended", s.confirmed.Load(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began), nil
}
