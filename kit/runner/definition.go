// Package runner runs a service: it reads the settings, starts the parts in order, serves HTTP, runs the roles (api, worker, relay) and stops
// cleanly. A service is one literal, Service, that registers everything it consists of.
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

// Service is everything that a service registers. Fields that are functions of a Kit are called once for each instance that starts, and also
// without an instance, to describe the service: then the Kit's parts are empty, and the functions must only make values of them.
type Service struct {
	// Name is the name of the binary and, unless TOPIC_PREFIX is set, the prefix of topics: lower-case letters and digits. Title is the name for
	// people, Summary one line about the service.
	Name, Title, Summary string

	// Settings declares the service's own settings, which are read before anything is started; Kit.Text, Kit.Duration and the like return them.
	// CheckSettings reports what is wrong with several of them together. Both are optional.
	Settings      []settings.Setting
	CheckSettings func(r *settings.Reader, c Config)

	Aggregates  []Aggregate
	Commands    func(k *Kit) []cqrs.Handler
	Queries     func(k *Kit) []cqrs.QueryHandler
	Projections []readmodel.Model
	Sagas       []*saga.Saga // old versions that still have running instances included
	Consumers   func(k *Kit) []cqrs.EventConsumer
	External    []cqrs.ExternalService // aggregates of other services that sagas send commands to, or whose events they wait for
	Codecs      []messaging.Codec      // of messages that are not, or not only, in JSON
	Migrations  fs.FS                  // of the service's own tables, in goose's format

	// Middleware is added to the message router, outside the middleware of single handlers. It runs for each attempt at a message, inside the
	// kit's own middleware; messages of one key that wait may be in it at once. Router adds handlers of Watermill's, with subscribers and publishers of any kind; the kit's for them are
	// Kit.Subscriber, Kit.Publisher and Kit.Middleware. It is called on instances with the role worker. Both are optional.
	Middleware []message.HandlerMiddleware
	Router     func(k *Kit, r *message.Router) error

	// Gateways are the external services that commands call. Breaker has the settings of the circuit breaker of one of them, by its name;
	// breaker.Default if it is nil.
	Gateways []Gateway
	Breaker  func(name string) gobreaker.Settings

	// Database opens the database, EventStore makes the event store in it, Outbox the publisher that writes messages into the outbox, and
	// Broker the broker. All are required: adapters of the service choose them.
	Database   func(dsn string, maxConns int) (*sqlx.DB, error)
	EventStore func(db *sqlx.DB, types aggregate.Types) *eventstore.Store
	Outbox     outbox.Insert
	Broker     func(e BrokerEnv) (broker.Broker, error)

	// Prepare starts parts that commands need, beside the sandbox. It is called after the database and the broker were started, before
	// Commands. Optional.
	Prepare func(ctx context.Context, k *Kit) error

	// Seed fills a new database of the embedded PostgreSQL. Optional.
	Seed func(ctx context.Context, k *Kit) error

	// Hints are commands that the banner suggests. Optional.
	Hints func(k *Kit) []string

	// CLI are additional commands of the command line. Optional.
	CLI func(p *Program) []*cobra.Command

	// Routes are the routes of the service, Mounts handlers beside the API, and Pages its own pages. Optional.
	Routes func(k *Kit) *httpapi.Service
	Mounts func(k *Kit) []httpapi.Mount
	Pages  func(k *Kit) opsui.Extension
}

// Aggregate is a type of aggregate that a service registers; AggregateOf makes it.
type Aggregate interface {
	category() string
	Types() aggregate.Types // the events
	snapshot() (audit.Snapshot, bool)
}

// AggregateType is a type of aggregate: the category of its streams and topics, its events, and the function that rebuilds it from them.
type AggregateType[A eventstore.Aggregate, E any] struct {
	name    string
	events  aggregate.Types
	rebuild func([]E) A
	options eventstore.Options
}

// AggregateOf registers a type of aggregate.
func AggregateOf[A eventstore.Aggregate, E any](category string, events aggregate.Types, rebuild func([]E) A, o eventstore.Options) AggregateType[A, E] {
	return AggregateType[A, E]{category, events, rebuild, o}
}

// Store is the store that handlers of the type use.
func (t AggregateType[A, E]) Store(k *Kit) cqrs.Store[A] {
	return eventstore.NewRepository(k.store(), t.name, t.rebuild, t.options)
}

func (t AggregateType[A, E]) category() string { return t.name }

// Types are the events of the type.
func (t AggregateType[A, E]) Types() aggregate.Types { return t.events }

func (t AggregateType[A, E]) snapshot() (audit.Snapshot, bool) {
	if t.options.SnapshotEvery == 0 {
		return audit.Snapshot{}, false
	}
	rebuild := func(history []E) eventstore.Snapshotter { return any(t.rebuild(history)).(eventstore.Snapshotter) } // NewRepository has checked it
	return audit.SnapshotOf(eventstore.FoldSnapshot(rebuild, t.options)), true
}

// heard are the events of external services that the service handles: those of its consumers, and those that sagas wait for.
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

// Event types by the categories that hold them, the sagas' included.
func (d *Service) types() map[string]aggregate.Types {
	all := map[string]aggregate.Types{saga.Category: saga.HistoryTypes}
	for _, a := range d.Aggregates {
		all[a.category()] = a.Types()
	}
	return all
}

// published are the types that are sent to topics. What sagas record is in the store in any case; it is published if the settings ask for it, or
// if a projection or a saga consumes it.
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

// readModels are the service's read models, and the kit's: the list of sagas.
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
