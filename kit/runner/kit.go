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

// Kit gives a service access to the instance that runs it. The methods DB, GatewayURL, Commands, Text, Number, Duration and On can be called without
// an instance (see Service); most of them then return zero values. All others need one.
type Kit struct{ instance *Instance }

// DB is the database, for reading read models. Writes belong in a unit of work.
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

// History returns the events of an aggregate, oldest first. The error wraps cqrs.ErrNotFound if there are none.
func (k *Kit) History(ctx context.Context, category, id string) ([]cqrs.Event, error) {
	return k.store().History(ctx, category, id)
}

// Commands is the command bus. Send stores a command in the unit of work of its context, Execute calls the handler of the command.
func (k *Kit) Commands() cqrs.Commands { return bus{k.instance} }

// bus is the command bus of an instance. It looks up the instance's bus at each call, because handlers get it before that bus is made.
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

// CancelSaga requests the compensation of the saga that the event began started. It needs a unit of work in the context. The error wraps
// saga.ErrTooLate if the saga has reached its pivot.
func (k *Kit) CancelSaga(ctx context.Context, definition string, began cqrs.Event, reason string) error {
	return k.instance.core.manager.Cancel(ctx, k.instance.saga(definition), began, reason)
}

// Compensation returns a function that requests the compensation of the saga that an event of the aggregate with this id started. The function runs
// in one unit of work. Its error wraps saga.ErrTooLate if the saga has reached its pivot, and cqrs.ErrNotFound if there is no such aggregate.
func (k *Kit) Compensation(definition, category, reason string) func(ctx context.Context, id string) error {
	return func(ctx context.Context, id string) error {
		return k.UnitOfWork().Within(ctx, func(ctx context.Context) error {
			history, err := k.History(ctx, category, id)
			if err != nil {
				return err
			}
			first := 0 // index of the event that started the saga, which need not be the first event of the aggregate
			if s := k.Definition(definition); s != nil {
				first = max(slices.IndexFunc(history, func(e cqrs.Event) bool { return s.Starts(e.Body) }), 0)
			}
			return k.CancelSaga(ctx, definition, history[first], reason)
		})
	}
}

// SignalSaga sends a signal to a saga in the name of the principal of the context. It needs a unit of work in the context. A route of the service
// calls it for a customer after it has checked that the saga belongs to the customer. Decode reads the payload into a pointer to the type that the
// definition names. The error wraps cqrs.ErrNotFound if there is no such saga or signal, and saga.ErrNotAwaited if the saga does not wait for the
// signal.
func (k *Kit) SignalSaga(ctx context.Context, sagaID, signal string, decode func(payload any) error) error {
	return k.instance.core.manager.Signal(ctx, sagaID, signal, decode)
}

// Definition returns the newest version of a saga's definition, nil if there is none.
func (k *Kit) Definition(name string) *saga.Saga { return k.instance.saga(name) }

// Config is the settings of the instance.
func (k *Kit) Config() Config { return k.instance.config }

// Announce adds a line to the banner: the name of a part and its address.
func (k *Kit) Announce(name, address string) {
	k.instance.announced = append(k.instance.announced, [2]string{name, address})
}

// Log is the instance's logger.
func (k *Kit) Log() *slog.Logger { return k.instance.log }

// URL is the address of the HTTP API.
func (k *Kit) URL() string { return k.instance.URL }

// OpsURL is the address for operators. It is the same as URL unless OPS_ADDR is set.
func (k *Kit) OpsURL() string { return k.instance.OpsURL }

// Watch returns a channel that receives after commits on this instance that wrote to one of these streams; to any stream if none is named. The
// channel holds one notification: several commits may cause only one. The caller must call stop to end the watch.
func (k *Kit) Watch(streams ...string) (changes <-chan struct{}, stop func()) {
	return k.instance.watch.Streams(streams...)
}

// Stopping returns a channel that is closed when the instance stops.
func (k *Kit) Stopping() <-chan struct{} { return k.instance.stopping }

// OnStop registers a function that Stop calls, before the functions that were registered earlier. It is for Prepare and other functions that run
// during Start, and is not safe for concurrent use.
func (k *Kit) OnStop(f func(context.Context) error) { k.instance.onStop(f) }

// Failed reports that a part of the instance has ended with an error. The program then stops the instance.
func (k *Kit) Failed(err error) { k.instance.failed <- err }

// LockData locks the data directory for files that the service stores there. The lock is released when the instance stops. Further calls have no
// effect. The error says that another instance holds the lock.
func (k *Kit) LockData() error { return k.instance.lockData() }

// lockData locks the data directory until the instance stops.
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
