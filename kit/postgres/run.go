// Runs of messages of one key (ADR 36). Messages join a run in the order of the key, and each is handled behind a savepoint. A message that fails or is refused does not affect the
// other messages. TestMessageOfARunFailsAlone, TestRunThatCannotCommit and TestBadMessageOfARunIsFoundByHalves show it.

package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// maxRun is the maximum number of messages in one unit of work.
const maxRun = 64

// run is the unit of work of one message, or of several consecutive messages of one key, which commit together. Its streams are read once. Each
// message is handled behind a savepoint, and rolled back to it if it fails or is refused. One message at a time uses the run; the next message joins when its predecessor has
// done its work (cqrs.Turn). The last message submits the run.
//
// If the commit of several messages fails, they run again in runs of half the length, so that each message finally has its own result.
type run struct {
	*txn.Unit
	session        *eventstore.Session
	length         int  // number of messages
	own            bool // the run has committed in its own transaction, or has tried to
	inlined        bool // an event or a command was handled inline
	stored         bool // the run is committed, even if err is set by a failure after the commit
	events         []cqrs.Event
	messages       []*outbox.Message
	inlineCommands int             // number of commands that it handles or hands over
	claims         []*outbox.Claim // of the keys of these commands
	keys           map[string]bool // topic and key of the messages that it has sent; true: all of them were handled inline
	ended          chan struct{}
	err            error
}

func (u *UnitOfWork) begin() *run {
	_, unit := txn.NewUnit(context.Background(), u.db)
	r := &run{Unit: unit, length: 1, ended: make(chan struct{})}
	r.session = u.store.NewSession(r.Unit, u.clock)
	r.Admit(u.admit)
	return r
}

// end ends a run with its result.
func (r *run) end(err error) {
	r.session.Release()
	r.Close()
	for _, c := range r.claims {
		c.Release()
	}
	r.err = err
	close(r.ended)
}

// failure is the error of a run that has ended.
func (r *run) failure() error {
	select {
	case <-r.ended:
		return r.err
	default:
		return nil
	}
}

// errRunFailed is the error of each message of a run of several whose commit failed.
var errRunFailed = fmt.Errorf("a unit of work of several messages failed: %w", cqrs.ErrConflict)

// wait waits for the result. The error may be ctx's.
func (r *run) wait(ctx context.Context) error {
	select {
	case <-r.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	// In the run's own transaction the work of one message can break the connection for all.
	if r.err != nil && r.Joined() && (r.own || !txn.IsUnavailable(r.err)) {
		return fmt.Errorf("%w: %v", errRunFailed, r.err) //nolint:errorlint // the kind of the error is that of one message only
	}
	return r.err
}

// join does the work of a message in the run of the messages before it. If that fails, the others are committed, and the message runs again
// after them.
func (u *UnitOfWork) join(ctx context.Context, r *run, work func(ctx context.Context) error, inline inlineLevel) error {
	own := context.WithoutCancel(ctx) // the other messages must not fail because this one is cancelled
	turn := cqrs.TurnFromContext(ctx)
	if !turn.Admits(r.length + 1) {
		_ = u.submit(own, r)
		return fmt.Errorf("%w: the unit of work before has too many messages", cqrs.ErrConflict)
	}
	working, stop := context.WithTimeout(ctx, unitTimeout)
	defer stop()
	writes, streams, events := r.Savepoint(), r.session.Savepoint(), len(r.events)
	r.length++
	r.Join()
	err := cqrs.Protect(func() error { return u.step(working, r, work, inline) })
	if err == nil {
		return u.complete(own, turn, r)
	}
	r.length--
	r.RollbackTo(writes)
	r.session.RollbackTo(streams)
	r.events = r.events[:events]
	turn.Limit(1)
	_ = u.submit(own, r) // the other messages receive the result
	return fmt.Errorf("%w: %w", cqrs.ErrConflict, err)
}

// complete passes a run to the next message, or submits it, and waits for the result.
func (u *UnitOfWork) complete(ctx context.Context, turn *cqrs.Turn, r *run) error {
	err := error(nil)
	if len(r.claims) == 0 && r.Joinable() && r.length < maxRun && turn.Admits(r.length+1) && turn.Pass(r) {
		err = r.wait(ctx)
	} else {
		err = u.submit(ctx, r)
	}
	if errors.Is(err, errRunFailed) {
		turn.Limit(r.length / 2)
	}
	if err != nil && r.failedWithInline() {
		err = fmt.Errorf("%w: %w", errInline, err)
	}
	return err
}

// submit commits a run, with the next group or in its own transaction, and waits for the result.
func (u *UnitOfWork) submit(ctx context.Context, r *run) error {
	inside := eventstore.WithSession(txn.WithUnit(ctx, r.Unit), r.session)
	if err := r.session.Seal(inside); err != nil {
		r.end(err)
		return err
	}
	r.messages = outbox.MessagesFromContext(inside)
	c := &committing{run: r, ctx: ctx}
	if r.own = r.OwnTransaction(); r.own {
		writing, cancel := context.WithTimeout(ctx, unitTimeout)
		defer cancel()
		if err := u.commits.write(writing, []*committing{c}, txn.Waits{Lock: contendedLockWait}); err != nil {
			r.end(lockedOut(err, r.Unit))
		}
	} else {
		u.commits.enqueue(c)
	}
	err := r.wait(ctx)
	if failed := r.failure(); txn.IsStale(failed) {
		if r.inlined {
			r.session.ConflictedSomewhere(ctx)
		} else {
			r.session.Conflicted()
		}
	}
	return err
}

// admit lets a unit begin a transaction of its own.
func (u *UnitOfWork) admit(ctx context.Context) (release func(), err error) {
	select {
	case u.ownTransactions <- struct{}{}:
		return func() { <-u.ownTransactions }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a transaction: %w: %w", eventstore.ErrBusy, ctx.Err())
	}
}
