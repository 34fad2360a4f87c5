// The inbox of a unit of work. A message's inbox row commits with its effects, so each message of a source takes effect once. TestInstancesAgree
// shows it.

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/inbox"
)

// NeedsProcessing implements cqrs.Inbox.
func (u *UnitOfWork) NeedsProcessing(ctx context.Context, d cqrs.Delivery) (bool, error) {
	switch {
	case d.Expired(u.clock()):
		return false, nil
	case cqrs.InboxConfirmed(ctx):
		return true, nil
	}
	outcome, err := u.inbox.LookUp(ctx, d.Consumer, d.InboxMeta())
	return outcome == cqrs.Processed, err
}

// Handle implements cqrs.Inbox. Nearly every message is new, so it is processed without a look-up, and the insert of its inbox row fails if
// it is a duplicate. After any failure of such an attempt the message is looked up and processed again, and only that result counts.
func (u *UnitOfWork) Handle(ctx context.Context, d cqrs.Delivery, work func(ctx context.Context) error) (outcome cqrs.Outcome, err error) {
	optimistic := u.inbox.Optimistic(d.InboxMeta())
	err = u.Within(cqrs.WithMeta(ctx, d.Meta), func(ctx context.Context) error {
		optimisticNow := optimistic
		optimistic = false // in the next attempt
		outcome, err = cqrs.Receive(ctx, inboxUnit{u.inbox, optimisticNow}, d, u.clock(), func(ctx context.Context) (err error) {
			if !optimisticNow || ctx.Value(unitKey{}).(*unit).command != nil { // a command is new in the unit of work that sends it
				return work(ctx)
			}
			defer func() {
				if value := recover(); value != nil {
					err = fmt.Errorf("%w: panic: %v", errUnverified, value) // if the message is new, it runs again and panics again, with its own stack
				}
			}()
			if err = work(ctx); err != nil && ctx.Err() == nil {
				err = fmt.Errorf("%w: %w", errUnverified, err)
			}
			return err
		})
		return err
	})
	return outcome, err
}

// VerifyDuplicates makes the unit of work look up every message before it processes it, for d from now on and for d after each duplicate. The default is
// 10 s after a duplicate.
func (u *UnitOfWork) VerifyDuplicates(d time.Duration) {
	u.inbox.VerifyFor = d
	u.inbox.VerifyDuplicates()
}

// errUnverified is the failure of a message that was not looked up. The message may have failed because it is a duplicate, so it is processed again after
// a look-up.
var errUnverified = fmt.Errorf("not looked up: %w", cqrs.ErrConflict)

// inboxUnit implements cqrs.InboxUnit on the unit of work of the context.
type inboxUnit struct {
	inbox      *inbox.Inbox
	optimistic bool // insert the inbox row without a look-up
}

func (u inboxUnit) TryInsert(ctx context.Context, consumer string, m cqrs.Meta) (cqrs.Outcome, error) {
	outcome, err := cqrs.Processed, error(nil)
	if u.optimistic {
		err = inbox.TryInsert(ctx, consumer, m)
	} else {
		outcome, err = u.inbox.TryInsert(ctx, consumer, m)
	}
	unit := ctx.Value(unitKey{}).(*unit)
	unit.claimed = unit.Savepoint()
	return outcome, err
}

func (inboxUnit) Record(ctx context.Context, consumer string, m cqrs.Meta, o cqrs.Outcome) error {
	return inbox.Record(ctx, consumer, m, o)
}

func (inboxUnit) Refuse(ctx context.Context, consumer, messageID string) error {
	return inbox.Refuse(ctx, consumer, messageID)
}

func (inboxUnit) Discard(ctx context.Context) error {
	unit := ctx.Value(unitKey{}).(*unit)
	unit.RollbackTo(unit.claimed)
	unit.session.RollbackTo(unit.streams)
	return nil
}

func (inboxUnit) Publish(ctx context.Context, e cqrs.Event) error {
	unit := ctx.Value(unitKey{}).(*unit)
	unit.answers = append(unit.answers, e)
	return nil
}

func (inboxUnit) AnswerIfSilent(ctx context.Context, e cqrs.Event) error {
	ctx.Value(unitKey{}).(*unit).silent = &e
	return nil
}
