package runner

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/keyqueue"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/postgres/sagawaits"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// core has the parts that every role uses.
type core struct {
	store          *eventstore.Store
	uow            *postgres.UnitOfWork
	projecting     *postgres.UnitOfWork // of projections, which commit in transactions of their own
	marshaler      messaging.Marshaler
	publisher      outbox.Publisher
	handlers       []cqrs.Handler
	commands       *messaging.Commands
	manager        *manager.Manager
	events         messaging.Events
	consumers      []cqrs.EventConsumer
	asyncAPI       []byte
	sagas          []*saga.Saga
	queries        *cqrs.Queries
	keyQueue       *keyqueue.Queue
	topics         []string
	externalTopics []string                // topics of external services
	consumedTopics []string                // those of externalTopics that this instance consumes
	wake           func()                  // wakes the relay of this or of another instance
	offer          func([]*outbox.Message) // passes committed messages to the relay of this or of another instance
}

// build makes the core and checks the sagas. It starts no part.
func (s *Instance) build(_ context.Context, _ func(string)) error {
	c := &s.core
	c.wake, c.offer = func() {}, func([]*outbox.Message) {}
	c.sagas = s.def.Sagas
	var sagaEvents, all []aggregate.Types
	var categories []string
	published := s.def.published(s.config)
	for category, types := range s.def.types() {
		sagaEvents = append(sagaEvents, types)
		if _, ok := published[category]; ok {
			categories = append(categories, category)
		}
	}
	c.keyQueue = keyqueue.New(s.db)
	c.store = s.def.EventStore(s.db, aggregate.Merge(sagaEvents...))
	c.store.LimitCache(int64(memoryFor(40<<20, cacheShare, 1<<20)))
	sagaRows := readmodel.NewSagas(s.db)
	c.manager = &manager.Manager{Sagas: c.sagas, Streams: c.store, Rows: measured{sagaRows, s.telemetry.SagaEnded}, Waits: sagawaits.Waits{}, Commands: s.kit.Commands(), Timers: timers{}, Clock: s.clock, Open: s.open}
	c.handlers = append(s.def.commands(&s.kit), c.manager.Handlers()...)
	for _, n := range s.def.External {
		c.handlers = append(c.handlers, n.Handlers()...)
		prefix := s.config.ExternalPrefixes[n.Service]
		if len(n.Commands) > 0 {
			c.externalTopics = append(c.externalTopics, messaging.CommandTopic(prefix, n.Category))
		}
		c.externalTopics = append(c.externalTopics, messaging.EventTopic(prefix, n.Category))
		c.consumedTopics = append(c.consumedTopics, messaging.EventTopic(prefix, n.Category))
	}
	if err := errors.Join(checkCommands(c.handlers), s.def.checkSagas(c.handlers)); err != nil {
		return err
	}
	all = append(all, sagaEvents...)
	all = append(all, saga.Answers)
	for _, h := range c.handlers {
		all = append(all, aggregate.TypesOf(h.Type))
	}
	c.marshaler = messaging.NewMarshaler(aggregate.Merge(all...), "/"+s.config.TopicPrefix).In(s.def.Codecs...)
	c.publisher = outbox.NewPublisher(s.config.MaxMessage, s.def.Outbox)
	bus, err := messaging.NewEventBus(s.config.TopicPrefix, c.publisher, c.marshaler, s.clock, s.watermill)
	if err != nil {
		return err
	}
	said := eventBus{bus, published}
	c.events = said
	c.uow = postgres.NewUnitOfWork(s.db, c.store, said, s.clock)
	c.uow.OnCommit = func(events []cqrs.Event, messages []*outbox.Message) {
		if len(messages) > 0 {
			c.offer(messages)
		}
		s.watch.Committed(events)
	}
	c.projecting = postgres.NewUnitOfWork(s.db, c.store, said, s.clock)
	if c.commands, err = messaging.NewCommands(s.config.TopicPrefix, s.config.ExternalPrefixes, c.publisher, c.marshaler, c.uow, s.clock, s.watermill); err != nil {
		return err
	}
	c.commands.Register(c.handlers)
	queries := append(s.def.queries(&s.kit), manager.Queries(c.store, sagaRows)...)
	c.queries = cqrs.NewQueries(queries, s.telemetry.Decorator("query"))
	c.consumers = s.def.consumers(&s.kit)
	if c.asyncAPI, err = s.def.asyncAPI(s.config, c.handlers); err != nil {
		return err
	}
	c.topics = messaging.Topics(s.config.TopicPrefix, c.handlers, categories...)
	for _, r := range c.consumers {
		c.externalTopics = append(c.externalTopics, messaging.EventTopic(s.config.ExternalPrefixes[r.From], r.Category))
		c.consumedTopics = append(c.consumedTopics, messaging.EventTopic(s.config.ExternalPrefixes[r.From], r.Category))
	}
	if s.def.Seed != nil && s.postgres != nil && s.postgres.Fresh {
		return s.def.Seed(context.Background(), &s.kit)
	}
	return nil
}

// eventBus publishes the events of the published categories and drops all other events.
type eventBus struct {
	*wcqrs.EventBus
	published map[string]aggregate.Types
}

// Publish implements postgres.EventBus.
func (b eventBus) Publish(ctx context.Context, event any) error {
	if _, ok := b.published[event.(cqrs.Event).Category]; !ok {
		return nil
	}
	return b.EventBus.Publish(ctx, event)
}

// open tells a saga whether the breaker of a command's destination is open on this instance.
func (s *Instance) open(c cqrs.Keyed) bool {
	b := s.guards[s.core.commands.Destination(c)]
	return b != nil && b.Snapshot().State == "open"
}

type timers struct{}

func (timers) Stop(ctx context.Context, ids []string) error { return outbox.CancelTimers(ctx, ids) }

// checkCommands refuses commands that share a name or a Go type.
func checkCommands(handlers []cqrs.Handler) error {
	var faults []error
	names, types := map[string]reflect.Type{}, map[reflect.Type]string{}
	for _, h := range handlers {
		goType := reflect.TypeOf(h.Type.New()).Elem()
		if other, twice := types[goType]; twice {
			faults = append(faults, fmt.Errorf("commands %s and %s have the same Go type %s: to rename a command, register it once, under its new name, with Formerly(former name)", other, h.Type.Name, goType))
		}
		types[goType] = h.Type.Name
		for _, name := range append([]string{h.Type.Name}, h.FormerNames...) {
			if other, twice := names[name]; twice {
				faults = append(faults, fmt.Errorf("commands %s and %s have the same name %s", other, goType, name))
			}
			names[name] = goType
		}
	}
	return errors.Join(faults...)
}

// checkSagas returns an error for each definition with which a saga would wait for ever: a faulty definition, an event that no aggregate records,
// a command without a handler. Handlers include the commands of external services.
func (d *Service) checkSagas(handlers []cqrs.Handler) error {
	handled := map[reflect.Type]bool{}
	for _, h := range handlers {
		handled[reflect.TypeOf(h.Type.New()).Elem()] = true
	}
	var faults []error
	for _, s := range d.Sagas {
		for _, c := range s.Sends() {
			if t := c.Type; !handled[t] && (t.Kind() != reflect.Pointer || !handled[t.Elem()]) {
				step := c.Step
				if c.Undo {
					step += " (compensation)"
				}
				faults = append(faults, fmt.Errorf("saga %s, step %q sends %s, which no handler is registered for: register it with Commands, or with External if another service handles it", s.Name(), step, t))
			}
		}
		faults = append(faults, s.Check())
		for _, child := range s.Children() {
			if !slices.ContainsFunc(d.Sagas, func(known *saga.Saga) bool { return known.Name() == child.Name() && known.Version() == child.Version() }) {
				faults = append(faults, fmt.Errorf("saga %s starts saga %s v%d, which is not registered: add it to Sagas", s.Name(), child.Name(), child.Version()))
			}
		}
		for _, t := range s.EventTypes() {
			if _, ok := d.sourceOf(t); !ok {
				faults = append(faults, fmt.Errorf("saga %s waits for %s, which no aggregate of this or an external service records", s.Name(), t))
			}
		}
	}
	return errors.Join(faults...)
}

// sourceOf finds the type of aggregate, of this or of an external service, that records an event.
func (d *Service) sourceOf(event reflect.Type) (messaging.Source, bool) {
	one := reflect.Zero(event).Interface()
	for category, types := range d.types() {
		if _, ok := types.Of(one); ok {
			return messaging.Source{Category: category}, true
		}
	}
	for _, n := range d.External {
		if _, ok := n.Events.Of(one); ok {
			return messaging.Source{Category: n.Category, Service: n.Service, Known: aggregate.Merge(n.Events, saga.Answers)}, true
		}
	}
	return messaging.Source{}, false
}
