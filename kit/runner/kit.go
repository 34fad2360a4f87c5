package runner

import (
	"context"
	"log/slog"
	"slices"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/saga"
)

// Kit gives a service access to the instance that runs it.
type Kit struct{ instance *Instance }

// DB is the database, for read models. Writes belong in a unit of work.
func (k *Kit) DB() *sqlx.DB {
	if k.instance == nil {
		return nil
	}
	return k.instance.db
}

func (k *Kit) store() *eventstore.Store {
	if k.instance == nil {
		return nil
	}
	return k.instance.core.store
}

// History reads the events of an aggregate, oldest first. The error wraps cqrs.ErrNotFound if there are none.
func (k *Kit) History(ctx context.Context, category, id string) ([]cqrs.Event, error) {
	return k.store().History(ctx, category, id)
}

// Commands is the command bus: Send stores a command with the unit of work of its context, Execute calls its handler.
func (k *Kit) Commands() cqrs.Commands { return bus{k.instance} }

// bus is the command bus of an instance, which is made after the handlers that use it.
type bus struct{ instance *Instance }

func (b bus) Send(ctx context.Context, c cqrs.Command) error {
	return b.instance.core.commands.Send(ctx, c)
}

func (b bus) Execute(ctx context.Context, c cqrs.Command) error {
	return b.instance.core.commands.Execute(ctx, c)
}

// Queries is the query bus.
func (k *Kit) Queries() *cqrs.Queries { return k.instance.core.queries }

// UnitOfWork is the unit of work of the instance.
func (k *Kit) UnitOfWork() cqrs.UnitOfWork { return k.instance.core.uow }

// CancelSaga cancels the saga that the event has started: it compensates. The error is a refusal if it is too late.
func (k *Kit) CancelSaga(ctx context.Context, definition string, began cqrs.Event, reason string) error {
	return k.instance.core.manager.Cancel(ctx, k.instance.saga(definition), began, reason)
}

// Compensation makes a function that requests the compensation of the saga that an event of an aggregate began. The function decides in one
// transaction whether it is too late; then its error is a refusal. The error wraps cqrs.ErrNotFound if there is no such aggregate.
func (k *Kit) Compensation(definition, category, reason string) func(ctx context.Context, id string) error {
	return func(ctx context.Context, id string) error {
		return k.UnitOfWork().Within(ctx, func(ctx context.Context) error {
			history, err := k.History(ctx, category, id)
			if err != nil {
				return err
			}
			first := 0 // that started the saga, which need not be the first of all
			if s := k.Definition(definition); s != nil {
				first = max(slices.IndexFunc(history, func(e cqrs.Event) bool { return s.Starts(e.Body) }), 0)
			}
			return k.CancelSaga(ctx, definition, history[first], reason)
		})
	}
}

// SignalSaga sends a signal to a saga, in the name of the principal of the context. A route of the service does so for customers, after it has
// checked whose saga it is.
func (k *Kit) SignalSaga(ctx context.Context, sagaID, signal string, decode func(payload any) error) error {
	return k.instance.core.manager.Signal(ctx, sagaID, signal, decode)
}

// Definition is the newest version of a saga's definition, nil if there is none.
func (k *Kit) Definition(name string) *saga.Saga { return k.instance.saga(name) }

// Config is the settings of the kit.
func (k *Kit) Config() Config { return k.instance.config }

// Announce adds a line to the banner: the name of a part and its address.
func (k *Kit) Announce(name, address string) {
	k.instance.announced = append(k.instance.announced, [2]string{name, address})
}

// Log is the instance's logger.
func (k *Kit) Log() *slog.Logger { return k.instance.log }

// URL is where HTTP is served, OpsURL where operators are served: the same, unless OPS_ADDR is set.
func (k *Kit) URL() string { return k.instance.URL }

// OpsURL is where operators are served.
func (k *Kit) OpsURL() string { return k.instance.OpsURL }

// Watch returns a channel that receives after every commit on this instance to one of these streams; to any, if none is named.
func (k *Kit) Watch(streams ...string) (changes <-chan struct{}, stop func()) {
	return k.instance.watch.Streams(streams...)
}

// Stopping is closed when the instance stops.
func (k *Kit) Stopping() <-chan struct{} { return k.instance.stopping }

// OnStop has a function called when the instance stops, before those of the parts that were started earlier.
func (k *Kit) OnStop(f func(context.Context) error) { k.instance.onStop(f) }

// Failed stops the instance with an error, because a part of it has ended.
func (k *Kit) Failed(err error) { k.instance.failed <- err }

// LockData locks the data directory, for what the service keeps there. It may be called more than once.
func (k *Kit) LockData() error { return k.instance.lockData() }

// lockData makes the data directory this instance's own.
func (s *Instance) lockData() error {
	if s.locked {
		return nil
	}
	release, err := embedded.Lock(s.config.DataDir)
	if err == nil {
		s.locked = true
		s.onStop(func(context.Context) error { return release() })
	}
	return err
}
