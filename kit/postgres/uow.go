// The unit of work of a message. Its effects and its inbox row commit together or not at all. Its decisions are based on stored state: an error or a panic is final only after
// the versions of the streams that it has read were confirmed. TestFailedUnitWritesNothing, TestConflictRetriesFromTheLoad,
// TestRefusalOutsideTheInboxIsDecidedOnTheStoredState and, with three instances, TestInstancesAgree show it.

package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/inbox"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// maxConflicts is the number of attempts after which the caller receives the conflict.
const maxConflicts = 20

// unitTimeout limits the work of one message, and one commit, so that a connection that hangs does not block a message for ever. Finished work waits for its commit without a
// limit, because many other units may have to commit before it.
const unitTimeout = 15 * time.Second

// EventBus publishes appended events. Its messages are written to the outbox in the same transaction.
type EventBus interface {
	Publish(ctx context.Context, event any) error
}

// UnitOfWork commits a message's inbox row, the aggregates that its handler changes, and the messages that the handler sends, all or none.
// Units that end at the same time commit in one transaction, and each fails alone. It implements cqrs.UnitOfWork and cqrs.Inbox.
type UnitOfWork struct {
	db              *sqlx.DB
	store           *eventstore.Store
	inbox           *inbox.Inbox
	bus             EventBus
	clock           cqrs.Clock
	commits         *groupCommit
	ownTransactions chan struct{} // holds a token for each unit with a transaction of its own

	// Committing is called before each commit, and done after it. Optional.
	Committing func() (done func())

	// Inline are the consumers that may handle an event in the unit of work that records it. Set it before the unit of work is used.
	Inline []cqrs.InlineConsumer

	// InlineCommands handles commands in the unit of work that sends them. Set it before the unit of work is used. Optional.
	InlineCommands InlineCommands

	// OnCommit receives the appended events and the outbox messages of each commit.
	OnCommit func(events []cqrs.Event, messages []*outbox.Message)
}

// NewUnitOfWork makes a unit of work. The bus publishes the events that are appended, in the same transaction; nil: they are not published.
func NewUnitOfWork(db *sqlx.DB, store *eventstore.Store, bus EventBus, clock cqrs.Clock) *UnitOfWork {
	if bus == nil {
		bus = noBus{}
	}
	u := &UnitOfWork{db: db, store: store, inbox: inbox.New(db), bus: bus, clock: clock}
	u.Committing, u.OnCommit = func() func() { return func() {} }, func([]cqrs.Event, []*outbox.Message) {}
	u.commits = newGroupCommit(db, func() func() { return u.Committing() }, u.committed)
	u.ownTransactions = make(chan struct{}, ownTransactions(db))
	return u
}

// noBus publishes nothing.
type noBus struct{}

func (noBus) Publish(context.Context, any) error { return nil }

type unitKey struct{}

// unit is what the context of a message's work carries.
type unit struct {
	*run
	claimed txn.Mark        // savepoint after the message's inbox row
	streams eventstore.Mark // savepoint before the message
	silent  *cqrs.Event     // published if the message records no event
	answers []cqrs.Event    // published, and not stored
	command *outbox.Message // the command, if the unit of work that sends it also handles it; nil for other messages
}

// Within implements cqrs.UnitOfWork. Inside a unit of work it joins that unit. A message joins the unit of the message before it with the same
// key, if that has not committed yet.
func (u *UnitOfWork) Within(ctx context.Context, work func(ctx context.Context) error) error {
	if ctx.Value(unitKey{}) != nil {
		return work(ctx)
	}
	turn := cqrs.TurnFromContext(ctx)
	inline := u.inlineLevel()
	for attempt := 1; ; attempt++ {
		before, err := turn.Join(ctx)
		if err != nil {
			return err
		}
		if r, ok := before.(*run); ok {
			err = u.join(ctx, r, work, inline)
		} else {
			err = u.once(ctx, work, inline, attempt > maxGroupAttempts)
		}
		if !errors.Is(err, errUnverified) {
			inline = inline.after(attempt)
		}
		if out, ok := errors.AsType[*lockedOutError](err); ok {
			err = u.commits.wait(ctx, out)
		}
		if !errors.Is(err, cqrs.ErrConflict) && !errors.Is(err, eventstore.ErrBusy) || attempt == maxConflicts || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errRunFailed) {
			continue // at once, so that the messages of the run find each other
		}
		// The unit that caused the conflict has committed by now. The growing random pause separates units that would conflict again.
		time.Sleep(rand.N(time.Millisecond << min(attempt, 6))) //nolint:gosec // chance, not secrecy
	}
}

// maxGroupAttempts is the number of attempts in commit groups. A unit that has conflicted in each of them gets a transaction of its own, in which
// it locks contended streams before it reads them.
const maxGroupAttempts = 3

// errUnfinished is the result of a unit whose work has panicked.
var errUnfinished = errors.New("the unit of work was not finished")

func (u *UnitOfWork) once(ctx context.Context, work func(ctx context.Context) error, inline inlineLevel, alone bool) (err error) {
	working, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	r := u.begin()
	completed := false
	defer func() {
		if !completed {
			err = lockedOut(err, r.Unit)
			r.end(cmp.Or(err, errUnfinished))
		}
	}()
	if alone {
		if err := r.Begin(working); err != nil {
			return err
		}
	}
	if err := u.verified(working, r, work, inline); err != nil {
		return err
	}
	completed = true
	return u.complete(ctx, cqrs.TurnFromContext(ctx), r)
}

// verified does the work of a message. An error or a panic is final only if the stored streams are still at the versions that the unit has
// read. If not, the error is cqrs.ErrConflict, and the unit runs again.
func (u *UnitOfWork) verified(ctx context.Context, r *run, work func(ctx context.Context) error, inline inlineLevel) (err error) {
	defer func() {
		value := recover()
		if value == nil && (err == nil || ctx.Err() != nil || cqrs.KindOf(err) == cqrs.KindConflict) {
			return
		}
		r.Close() // hold no lock and no connection while another connection is needed
		current := r.session.Verify(ctx)
		switch {
		case current != nil:
			err = current
		case value != nil:
			panic(value) // here, where the stack of the first panic is available
		}
	}()
	return u.step(ctx, r, work, inline)
}

// step does the work of a message and of its inline consumers in a run, and adds their events and messages to the run.
func (u *UnitOfWork) step(ctx context.Context, r *run, work func(ctx context.Context) error, inline inlineLevel) error {
	sent := len(outbox.MessagesFromContext(txn.WithUnit(ctx, r.Unit)))
	ctx = eventstore.WithSession(txn.WithUnit(ctx, r.Unit), r.session)
	at := &unit{run: r, claimed: r.Savepoint(), streams: r.session.Savepoint()}
	ctx = context.WithValue(ctx, unitKey{}, at)
	recorded, answers, err := u.perform(ctx, at, work)
	if err != nil {
		return err
	}
	r.events = append(r.events, recorded...)
	events := slices.Concat(recorded, answers)
	if inline > nothingInline && !r.OwnTransaction() {
		events = u.inline(ctx, r, events, sent, inline)
	}
	for _, e := range events {
		if err := u.bus.Publish(ctx, e); err != nil {
			return fmt.Errorf("publish %s: %w", e.Meta.Type, err)
		}
	}
	return nil
}

// perform does the work of a message. It returns the events that were recorded, and the answers, which are published and not stored.
func (u *UnitOfWork) perform(ctx context.Context, at *unit, work func(ctx context.Context) error) (recorded, answers []cqrs.Event, err error) {
	if err := work(ctx); err != nil {
		return nil, nil, err
	}
	if recorded, err = at.session.Flush(ctx); err != nil {
		return nil, nil, err
	}
	if at.silent != nil && len(recorded) == 0 && !answered(ctx, at) {
		at.answers = append(at.answers, *at.silent)
	}
	return recorded, at.answers, nil
}

// answered tells whether the handler itself has published an event for the saga's step through a Watermill bus.
func answered(ctx context.Context, at *unit) bool {
	m := at.silent.Meta
	return slices.ContainsFunc(outbox.MessagesFromContext(ctx), func(w *outbox.Message) bool {
		h := w.Message.Metadata
		return w != at.command && h[cqrs.HeaderSagaID] == m.SagaID && h[cqrs.HeaderSagaStep] == m.SagaStep && h[cqrs.HeaderBranch] == string(m.Branch)
	})
}
