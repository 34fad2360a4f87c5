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
	"github.com/millrace/millrace/sagas/saga"
)

// maxConflicts is how often a unit of work is begun again before the conflict is given to the caller.
const maxConflicts = 20

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

// claimed is the metadata that the inbox goes by.
func claimed(d app.Delivery) app.Meta {
	m := d.Meta
	if !d.Command {
		m.SagaID, m.SagaStep, m.Branch = "", "", ""
	}
	return m
}

// Peek implements app.Inbox.
func (u *UnitOfWork) Peek(ctx context.Context, d app.Delivery) (bool, error) {
	if u.expired(d) {
		return false, nil
	}
	claim, err := inbox.Peek(ctx, u.db, d.Consumer, claimed(d))
	return claim == inbox.Fresh, err
}

func (u *UnitOfWork) expired(d app.Delivery) bool {
	return !d.Meta.ExpiresAt.IsZero() && u.clock().After(d.Meta.ExpiresAt)
}

// Handle implements app.Inbox.
func (u *UnitOfWork) Handle(ctx context.Context, d app.Delivery, work func(ctx context.Context) error) (outcome string, err error) {
	ctx = app.WithMeta(ctx, d.Meta)
	err = u.Within(ctx, func(ctx context.Context) error {
		if u.expired(d) {
			outcome = string(inbox.Expired)
			return inbox.Record(ctx, d.Consumer, claimed(d), inbox.Expired)
		}
		claim, err := inbox.Take(ctx, d.Consumer, claimed(d))
		outcome = string(claim)
		switch {
		case err != nil:
			return err
		case claim == inbox.Nothing && !d.Asked:
			return u.answer(ctx, d, saga.NothingToUndo{})
		case claim != inbox.Fresh && claim != inbox.Nothing:
			return nil
		}
		err = work(ctx)
		if app.KindOf(err) != app.Refused {
			return err
		}
		outcome = string(inbox.Refused)
		unit := ctx.Value(unitKey{}).(unit)
		unit.session.Discard()
		unit.buffer.Discard()
		if err := inbox.Refuse(ctx, d.Consumer, d.Meta.ID); err != nil {
			return err
		}
		return u.answer(ctx, d, saga.Refused{Reason: err.Error()})
	})
	return outcome, err
}

// answer tells the saga that sent the command, if one did, on the event topic of the command's destination.
func (u *UnitOfWork) answer(ctx context.Context, d app.Delivery, body any) error {
	if !d.Command || d.Meta.Branch == "" {
		return nil
	}
	m := app.Meta{
		Subject: d.Category + "/" + d.Key, Time: u.clock().UTC(), Correlation: d.Meta.Correlation, Causation: d.Meta.ID,
		SagaID: d.Meta.SagaID, SagaStep: d.Meta.SagaStep, Branch: d.Meta.Branch, Trace: d.Meta.Trace,
	}
	return u.bus.Publish(ctx, app.Event{Body: body, Meta: m, Category: d.Category, Key: d.Key})
}
