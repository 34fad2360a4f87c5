// Package runner runs a service: it reads the settings, starts the parts in order, serves HTTP, runs the roles (api, worker, relay) and stops
// cleanly. A service is one value of type Service, which registers all its parts; Main runs it as a program.
package runner

import (
	"context"
	"io/fs"
	"reflect"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/sony/gobreaker"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/broker"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/postgres/audit"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
	"github.com/millrace/millrace/kit/settings"
)

// Service has everything that a service registers. Fields that are functions of a *Kit are called once for each instance that starts. Commands and
// Consumers are also called without an instance, to describe the service: then the parts of the Kit are empty, and the functions must only make
// values of them, not use them.
type Service struct {
	// Name is the name of the binary and, unless TOPIC_PREFIX is set, the prefix of topics: lower-case letters and digits. Title is the name that
	// the pages show, Summary describes the service in one line.
	Name, Title, Summary string

	// Settings declares the service's own settings. They are read before any part is started; Kit.Text, Kit.Number, Kit.Duration and Kit.On return
	// their values. CheckSettings reports faults of settings that depend on each other. Both are optional.
	Settings      []settings.Setting
	CheckSettings func(r *settings.Reader, c Config)

	Aggregates  []Aggregate
	Commands    func(k *Kit) []cqrs.Handler
	Queries     func(k *Kit) []cqrs.QueryHandler
	Projections []readmodel.Model
	Sagas       []*saga.Saga // including old versions that still have running instances
	Consumers   func(k *Kit) []cqrs.EventConsumer
	External    []cqrs.ExternalService // aggregates of other services that sagas send commands to or whose events they wait for
	Codecs      []messaging.Codec      // of messages that are not, or not only, encoded as JSON
	Migrations  fs.FS                  // of the service's own tables, in the format of goose

	// Middleware is added to the message router, outside the middleware of single handlers. It runs for each attempt at a message, inside the kit's
	// own middleware. Several waiting messages of one key may run in it at the same time.
	//
	// Router adds handlers of Watermill with subscribers and publishers of any kind. Kit.Subscriber, Kit.Publisher and Kit.Middleware return the
	// kit's own. Router is called on instances with the role worker. Both are optional.
	Middleware []message.HandlerMiddleware
	Router     func(k *Kit, r *message.Router) error

	// Gateways are the external services that commands call. Breaker returns the settings of the circuit breaker of the gateway with this name; nil
	// means breaker.Default.
	Gateways []Gateway
	Breaker  func(name string) gobreaker.Settings

	// Database opens the database, EventStore makes the event store in that database, Outbox writes messages into the outbox, and Broker makes the
	// broker. All four are required. The service chooses the implementations with them.
	Database   func(dsn string, maxConns int) (*sqlx.DB, error)
	EventStore func(db *sqlx.DB, types aggregate.Types) *eventstore.Store
	Outbox     outbox.Insert
	Broker     func(e BrokerEnv) (broker.Broker, error)

	// Prepare starts parts that commands need. It is called after the database, the broker and the sandbox were started and before Commands.
	// Optional.
	Prepare func(ctx context.Context, k *Kit) error

	// Seed fills a new database of the embedded PostgreSQL. It is called once, when the database is created. Optional.
	Seed func(ctx context.Context, k *Kit) error

	// Hints returns commands that the banner suggests. Optional.
	Hints func(k *Kit) []string

	// CLI returns additional commands for the command line. Optional.
	CLI func(p *Program) []*cobra.Command

	// Routes returns the API of the service, Mounts handlers beside the API, and Pages the service's own pages in the UI. Optional.
	Routes func(k *Kit) *httpapi.Service
	Mounts func(k *Kit) []httpapi.Mount
	Pages  func(k *Kit) opsui.Extension
}

// Aggregate is a type of aggregate that a service registers. AggregateOf makes it.
type Aggregate interface {
	category() string
	Types() aggregate.Types // the types of its events
	snapshot() (audit.Snapshot, bool)
}

// AggregateType is a type of aggregate: the category of its streams and topics, the types of its events, and the function that rebuilds an aggregate
// from its events.
type AggregateType[A eventstore.Aggregate, E any] struct {
	name    string
	events  aggregate.Types
	rebuild func([]E) A
	options eventstore.Options
}

// AggregateOf makes a type of aggregate for Service.Aggregates.
func AggregateOf[A eventstore.Aggregate, E any](category string, events aggregate.Types, rebuild func([]E) A, o eventstore.Options) AggregateType[A, E] {
	return AggregateType[A, E]{category, events, rebuild, o}
}

// Store returns the store that command handlers use to load and save aggregates of this type.
func (t AggregateType[A, E]) Store(k *Kit) cqrs.Store[A] {
	return eventstore.NewRepository(k.store(), t.name, t.rebuild, t.options)
}

func (t AggregateType[A, E]) category() string { return t.name }

// Types returns the types of events of this type of aggregate.
func (t AggregateType[A, E]) Types() aggregate.Types { return t.events }

func (t AggregateType[A, E]) snapshot() (audit.Snapshot, bool) {
	if t.options.SnapshotEvery == 0 {
		return audit.Snapshot{}, false
	}
	rebuild := func(history []E) eventstore.Snapshotter { return any(t.rebuild(history)).(eventstore.Snapshotter) } // NewRepository checks the type
	return audit.SnapshotOf(eventstore.FoldSnapshot(rebuild, t.options)), true
}

// heard are the events of external services that the service handles: events for its consumers and events that its sagas wait for.
func (d *Service) heard(k *Kit) []cqrs.EventConsumer {
	all := slices.Clip(d.consumers(k))
	for _, n := range d.External {
		c := cqrs.EventConsumer{From: n.Service, Category: n.Category}
		for _, t := range n.Events.All() {
			c.On = append(c.On, cqrs.ExternalHandler{Type: t})
		}
		all = append(all, c)
	}
	return all
}

// types are the event types by their categories, including the events of sagas.
func (d *Service) types() map[string]aggregate.Types {
	all := map[string]aggregate.Types{saga.Category: saga.HistoryTypes}
	for _, a := range d.Aggregates {
		all[a.category()] = a.Types()
	}
	return all
}

// published are the event types that are published on topics, by their categories. Events of sagas are always stored; they are published only if
// the settings ask for it, or if a projection or a saga consumes them.
func (d *Service) published(c Config) map[string]aggregate.Types {
	all := d.types()
	consumed := slices.ContainsFunc(d.Projections, func(m readmodel.Model) bool { return m.Category == saga.Category && !m.Inline }) ||
		slices.ContainsFunc(d.Sagas, func(s *saga.Saga) bool {
			return slices.ContainsFunc(s.EventTypes(), func(t reflect.Type) bool {
				_, ok := saga.HistoryTypes.Of(reflect.Zero(t).Interface())
				return ok
			})
		})
	if !c.SagaEvents && !consumed {
		delete(all, saga.Category)
	}
	return all
}

func (d *Service) snapshots() map[string]audit.Snapshot {
	all := map[string]audit.Snapshot{}
	for _, a := range d.Aggregates {
		if s, ok := a.snapshot(); ok {
			all[a.category()] = s
		}
	}
	return all
}

// readModels are the read models of the service and the read model of the kit, the list of sagas.
func (d *Service) readModels() []readmodel.Model {
	return append(slices.Clip(d.Projections), readmodel.Model{Projection: manager.Projection(readmodel.Sagas{}), Table: "saga_instances"})
}

func (d *Service) commands(k *Kit) []cqrs.Handler {
	if d.Commands == nil {
		return nil
	}
	return d.Commands(k)
}

func (d *Service) queries(k *Kit) []cqrs.QueryHandler {
	if d.Queries == nil {
		return nil
	}
	return d.Queries(k)
}

func (d *Service) consumers(k *Kit) []cqrs.EventConsumer {
	if d.Consumers == nil {
		return nil
	}
	return d.Consumers(k)
}
