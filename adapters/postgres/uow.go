package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/eventstore"
	"github.com/millrace/millrace/adapters/postgres/inbox"
	"github.com/millrace/millrace/adapters/postgres/outbox"
	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// maxConflicts is how often a unit of work is begun again before the conflict is given to the caller.
const maxConflicts = 20

// unitTimeout bounds one attempt at a unit of work: a connection that hangs must not hang its message for ever.
const unitTimeout = 15 * time.Second

// EventBus publishes what was appended; its messages end in the outbox of the same transaction.
type EventBus interface {
	Publish(ctx context.Context, event any) error
}

// UnitOfWork is one transaction around one message: its inbox row, the aggregates that it loads and changes, and the
// messages that come of it. It implements app.UnitOfWork.
type UnitOfWork struct {
	db     *sqlx.DB
	store  *eventstore.Store
	bus    EventBus
	clock  app.Clock
	logger watermill.LoggerAdapter

	// OnCommit is told what was appended, and how many messages wait in the outbox, after each commit.
	OnCommit func(events []app.Event, messages int)
}

// NewUnitOfWork makes a unit of work.
func NewUnitOfWork(db *sqlx.DB, store *eventstore.Store, bus EventBus, clock app.Clock, logger watermill.LoggerAdapter) *UnitOfWork {
	return &UnitOfWork{db: db, store: store, bus: bus, clock: clock, logger: logger, OnCommit: func([]app.Event, int) {}}
}

type unitKey struct{}

// unit is what the context of work carries.
type unit struct {
	session *eventstore.Session
	buffer  *outbox.Buffer
}

// Within implements app.UnitOfWork. Inside a unit it joins that one.
func (u *UnitOfWork) Within(ctx context.Context, work func(ctx context.Context) error) error {
	if ctx.Value(unitKey{}) != nil {
		return work(ctx)
	}
	for attempt := 1; ; attempt++ {
		err := u.once(ctx, work)
		if !errors.Is(err, app.ErrConflict) || attempt == maxConflicts || ctx.Err() != nil {
			return err
		}
		// Whoever was first is done by now; the growing, random pause parts those who meet again.
		time.Sleep(rand.N(time.Millisecond << min(attempt, 6))) //nolint:gosec // chance, not secrecy
	}
}

func (u *UnitOfWork) once(ctx context.Context, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	tx, err := u.db.BeginTxx(ctx, nil)
	if err != nil {
		return txn.Classify(err, "begin a unit of work")
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing; before one, the connection's end does the same
	inner, session := eventstore.WithSession(txn.With(ctx, tx), u.clock)
	inner, buffer := outbox.WithBuffer(inner)
	inner = context.WithValue(inner, unitKey{}, unit{session, buffer})
	if err := work(inner); err != nil {
		return err
	}
	events, err := session.Flush(inner, u.store, tx)
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := u.bus.Publish(inner, e); err != nil {
			return fmt.Errorf("publish %s: %w", e.Meta.Type, err)
		}
	}
	messages, err := buffer.Flush(tx, u.logger)
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return txn.Classify(err, "commit")
	}
	u.OnCommit(events, messages)
	return nil
}

// Peek implements app.Inbox.
func (u *UnitOfWork) Peek(ctx context.Context, d app.Delivery) (bool, error) {
	if d.Expired(u.clock()) {
		return false, nil
	}
	outcome, err := inbox.Peek(ctx, u.db, d.Consumer, d.Claimed())
	return outcome == app.Handled, err
}

// Handle implements app.Inbox.
func (u *UnitOfWork) Handle(ctx context.Context, d app.Delivery, work func(ctx context.Context) error) (outcome app.Outcome, err error) {
	err = u.Within(app.WithMeta(ctx, d.Meta), func(ctx context.Context) error {
		outcome, err = app.Receive(ctx, inboxUnit{u.bus}, d, u.clock(), work)
		return err
	})
	return outcome, err
}

// inboxUnit implements app.InboxUnit on the unit of work of the context.
type inboxUnit struct{ bus EventBus }

func (inboxUnit) Take(ctx context.Context, consumer string, m app.Meta) (app.Outcome, error) {
	return inbox.Take(ctx, consumer, m)
}

func (inboxUnit) Record(ctx context.Context, consumer string, m app.Meta, o app.Outcome) error {
	return inbox.Record(ctx, consumer, m, o)
}

func (inboxUnit) Refuse(ctx context.Context, consumer, messageID string) error {
	return inbox.Refuse(ctx, consumer, messageID)
}

func (inboxUnit) Discard(ctx context.Context) {
	unit := ctx.Value(unitKey{}).(unit)
	unit.session.Discard()
	unit.buffer.Discard()
}

func (u inboxUnit) Publish(ctx context.Context, e app.Event) error { return u.bus.Publish(ctx, e) }
