package service

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/millrace/millrace/adapters/gateway"
	"github.com/millrace/millrace/adapters/postgres"
	"github.com/millrace/millrace/adapters/postgres/eventstore"
	"github.com/millrace/millrace/adapters/postgres/outbox"
	"github.com/millrace/millrace/adapters/postgres/readmodel"
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/app/reaction"
	"github.com/millrace/millrace/domain/aggregate"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/ports/messages"
	"github.com/millrace/millrace/sagas"
	"github.com/millrace/millrace/sagas/process"
	"github.com/millrace/millrace/sagas/saga"
)

// core is what every role stands on.
type core struct {
	store        *eventstore.Store
	uow          *postgres.UnitOfWork
	projecting   *postgres.UnitOfWork // of projections, which are committed apart from what makes the events
	marshaler    messages.Marshaler
	publisher    outbox.Publisher
	handlers     []app.Handler
	commands     *messages.Commands
	manager      *process.Manager
	events       *cqrs.EventBus
	reactions    []app.Reaction
	asyncAPI     []byte
	sagas        []*saga.Saga
	queries      *app.Queries
	topics       []string
	othersTopics []string                // topics of other services
	wake         func()                  // the relay, here or elsewhere
	offer        func([]*outbox.Written) // to the relay, if it is here
}

// kinds are the aggregates: the category of their streams and topics, and their events.
func kinds() map[string]aggregate.Types {
	return map[string]aggregate.Types{
		order.Category: order.Types, inventory.Category: inventory.Types, payment.Category: payment.Types,
		shipment.Category: shipment.Types, saga.Category: saga.Facts,
	}
}

// build makes the core. It checks the sagas and starts nothing.
func (s *Service) build(_ context.Context, _ func(string)) error {
	c := &s.core
	c.wake, c.offer = func() {}, func([]*outbox.Written) {}
	c.sagas = sagas.All()
	if err := checkSagas(c.sagas); err != nil {
		return err
	}
	var facts, all []aggregate.Types
	var categories []string
	for category, types := range kinds() {
		facts, categories = append(facts, types), append(categories, category)
	}
	c.store = eventstore.New(s.db, aggregate.Merge(facts...))
	stock := eventstore.NewRepository(c.store, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: 100, Contended: true})
	deps := command.Deps{
		Orders:    eventstore.NewRepository(c.store, order.Category, order.Rebuild, eventstore.Options{}),
		Stock:     stock,
		Payments:  eventstore.NewRepository(c.store, payment.Category, payment.Rebuild, eventstore.Options{}),
		Shipments: eventstore.NewRepository(c.store, shipment.Category, shipment.Rebuild, eventstore.Options{}),
		Provider:  gateway.NewPayments(s.outside(s.config.PaymentsURL, "/payments")),
		Carrier:   gateway.NewCarrier("carrier", s.outside(s.config.CarrierURL, "/carrier")),
		Courier:   gateway.NewCarrier("courier", s.outside(s.config.CourierURL, "/courier")),
	}
	orders, sagaRows, stockRows := readmodel.NewOrders(s.db), readmodel.NewSagas(s.db), readmodel.NewStock(s.db)
	c.manager = &process.Manager{Sagas: c.sagas, Streams: c.store, Rows: measured{sagaRows, s.telemetry.SagaEnded}, Commands: lateCommands{c}, Timers: timers{}, Clock: s.clock, Open: s.open}
	c.handlers = append(command.All(deps), c.manager.Handlers()...)
	all = append(all, facts...)
	all = append(all, saga.Answers)
	for _, h := range c.handlers {
		all = append(all, aggregate.TypesOf(h.Type))
	}
	c.marshaler = messages.NewMarshaler(aggregate.Merge(all...), "/"+s.config.TopicPrefix)
	c.publisher = outbox.NewPublisher(s.config.MaxMessage)
	bus, err := messages.NewEventBus(s.config.TopicPrefix, c.publisher, c.marshaler, s.clock, s.watermill)
	if err != nil {
		return err
	}
	c.events = bus
	c.uow = postgres.NewUnitOfWork(s.db, c.store, bus, s.clock)
	c.uow.OnCommit = func(events []app.Event, messages []*outbox.Written) {
		if len(messages) > 0 {
			c.offer(messages)
			c.wake()
		}
		s.watch.Committed(events)
	}
	c.projecting = postgres.NewUnitOfWork(s.db, c.store, bus, s.clock)
	if c.commands, err = messages.NewCommands(s.config.TopicPrefix, c.publisher, c.marshaler, c.uow, s.clock, s.watermill); err != nil {
		return err
	}
	c.commands.Register(c.handlers)
	questions := append(query.All(query.Deps{History: c.store, Orders: orders, Stock: stockRows}), sagas.Queries(c.store, sagaRows)...)
	c.queries = app.NewQueries(questions, s.telemetry.Decorator("query"))
	c.reactions = reaction.All(reaction.Deps{Commands: c.commands})
	if c.asyncAPI, err = asyncAPI(s.config, c.handlers); err != nil {
		return err
	}
	c.topics = messages.Topics(s.config.TopicPrefix, c.handlers, categories...)
	for _, r := range c.reactions {
		c.othersTopics = append(c.othersTopics, messages.EventTopic(s.config.Others[r.From], r.Category))
	}
	return s.seed()
}

// lateCommands breaks the circle between the saga manager, which sends commands, and the bus, which knows the manager's handlers.
type lateCommands struct{ core *core }

func (l lateCommands) Send(ctx context.Context, c app.Command) error {
	return l.core.commands.Send(ctx, c)
}

func (l lateCommands) Execute(ctx context.Context, c app.Command) error {
	return l.core.commands.Execute(ctx, c)
}

// open tells a saga whether the breaker of a command's destination is open here.
func (s *Service) open(c app.Keyed) bool {
	b := s.guards[s.core.commands.Destination(c)]
	return b != nil && b.Snapshot().State == "open"
}

type timers struct{}

func (timers) Stop(ctx context.Context, ids []string) error { return outbox.Stop(ctx, ids) }

func checkSagas(all []*saga.Saga) error {
	var faults []error
	for _, s := range all {
		faults = append(faults, s.Check())
		for _, t := range s.Listens() {
			if categoryOf(t) == "" {
				faults = append(faults, fmt.Errorf("saga %s waits for %s, which no aggregate records", s.Name(), t))
			}
		}
	}
	return errors.Join(faults...)
}

func categoryOf(event reflect.Type) string {
	for category, types := range kinds() {
		if _, ok := types.Of(reflect.Zero(event).Interface()); ok {
			return category
		}
	}
	return ""
}

// seed stocks a database that was made just now, so that there is something to order.
func (s *Service) seed() error {
	if s.postgres == nil || !s.postgres.Fresh {
		return nil
	}
	return s.core.uow.Within(context.Background(), func(ctx context.Context) error {
		for _, sku := range []string{"MUG-01", "TEE-02", "CAP-03", "HEAVY-99"} {
			if err := s.core.commands.Execute(ctx, app.Command{Body: command.ReceiveStock{SKU: sku, Quantity: 1_000_000}}); err != nil {
				return err
			}
		}
		return nil
	})
}
