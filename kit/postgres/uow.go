package postgres

import (
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

// maxConflicts is how often a unit of work is begun again before the conflict is given to the caller.
const maxConflicts = 20

// unitTimeout bounds one attempt at a unit of work: a connection that hangs must not hang its message for ever.
const unitTimeout = 15 * time.Second

// EventBus publishes what was appended; its messages end in the outbox of the same transaction.
type EventBus interface {
	Publish(ctx context.Context, event any) error
}

// UnitOfWork is one message's inbox row, the aggregates that it loads and changes, and the messages that come of it, all or none. Units
// that end at the same time are committed in one transaction, each failing alone. It implements cqrs.UnitOfWork and cqrs.Inbox.
type UnitOfWork struct {
	db              *sqlx.DB
	store           *eventstore.Store
	inbox           *inbox.Inbox
	bus             EventBus
	clock           cqrs.Clock
	commits         *groupCommit
	ownTransactions chan struct{} // holds a token for each unit with a transaction of its own

	// Committing is told that a commit begins; done is called afterwards. Optional.
	Committing func() (done func())

	// OnCommit is told what was appended, and what was written to the outbox, after each commit.
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

// unit is what the context of work carries.
type unit struct {
	*txn.Unit
	session *eventstore.Session
	claimed int         // what it had written when the message was claimed
	silent  *cqrs.Event // what is published if no event is recorded
}

// Within implements cqrs.UnitOfWork. Inside a unit it joins that one.
func (u *UnitOfWork) Within(ctx context.Context, work func(ctx context.Context) error) error {
	if ctx.Value(unitKey{}) != nil {
		return work(ctx)
	}
	for attempt := 1; ; attempt++ {
		err := u.once(ctx, work, attempt > maxGroupAttempts)
		if out, ok := errors.AsType[*lockedOutError](err); ok {
			err = u.commits.wait(ctx, out)
		}
		if before, ok := cqrs.KeyChainFromContext(ctx).Before().(*txn.Unit); ok && before.Failed() {
			return err // not before the message before was dealt with
		}
		if !errors.Is(err, cqrs.ErrConflict) || attempt == maxConflicts || ctx.Err() != nil {
			return err
		}
		// Whoever was first is done by now; the growing, random pause parts those who meet again.
		time.Sleep(rand.N(time.Millisecond << min(attempt, 6))) //nolint:gosec // chance, not secrecy
	}
}

// maxGroupAttempts is how often a unit is tried together with others. One that was too late each time gets a transaction of its
// own, in which it locks what many want before it reads it.
const maxGroupAttempts = 3

func (u *UnitOfWork) once(ctx context.Context, work func(ctx context.Context) error, alone bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	inner, un := txn.NewUnit(ctx, u.db)
	defer un.Close()
	if alone {
		if err := u.begin(inner); err != nil {
			return err
		}
		defer func() { <-u.ownTransactions }()
		defer un.Close()
	}
	inner, session := u.store.WithSession(inner, un, u.clock)
	defer session.Discard()
	defer func() {
		if waited, ok := errors.AsType[*txn.WaitError](err); ok && un.Pending() {
			session.Discard()
			un.Close() // it holds locks that other units want
			err = &lockedOutError{waited, un.Detach()}
		}
	}()
	inner = context.WithValue(inner, unitKey{}, &unit{Unit: un, session: session})
	events, err := u.prepare(inner, un, session, work)
	if err != nil {
		return err
	}
	err = u.submit(ctx, un, session, events, outbox.MessagesFromContext(inner))
	if txn.IsStale(err) {
		session.Conflicted()
	}
	return err
}

// prepare does the work of a unit, all but the commit. An error or a panic is final only if everything that the unit has read is stored like
// that. If not, the error is cqrs.ErrConflict, and the unit runs again.
func (u *UnitOfWork) prepare(ctx context.Context, un *txn.Unit, session *eventstore.Session, work func(ctx context.Context) error) (events []cqrs.Event, err error) {
	defer func() {
		value := recover()
		if value == nil && (err == nil || ctx.Err() != nil || cqrs.KindOf(err) == cqrs.KindConflict) {
			return
		}
		un.Close() // to hold no lock, and no connection, while another one is needed
		current := un.WaitForDependencies(ctx)
		if current == nil {
			current = session.Verify(ctx)
		}
		switch {
		case current != nil:
			err = current
		case value != nil:
			panic(value) // here, where the stack of the first panic is still known
		}
	}()
	if err := work(ctx); err != nil {
		return nil, err
	}
	if events, err = session.Flush(ctx); err != nil {
		return nil, err
	}
	said := events
	if silent := ctx.Value(unitKey{}).(*unit).silent; silent != nil && len(events) == 0 && !answered(ctx, silent.Meta) {
		said = []cqrs.Event{*silent}
	}
	for _, e := range said {
		if err := u.bus.Publish(ctx, e); err != nil {
			return nil, fmt.Errorf("publish %s: %w", e.Meta.Type, err)
		}
	}
	return events, nil
}

// answered tells whether the unit of work has published an event for the saga's step itself, through a bus of Watermill's.
func answered(ctx context.Context, m cqrs.Meta) bool {
	return slices.ContainsFunc(outbox.MessagesFromContext(ctx), func(w *outbox.Message) bool {
		h := w.Message.Metadata
		return h[cqrs.HeaderSagaID] == m.SagaID && h[cqrs.HeaderSagaStep] == m.SagaStep && h[cqrs.HeaderBranch] == string(m.Branch)
	})
}

// begin begins a unit's own transaction. Whom it depends on is waited for before it holds anything that he might need.
func (u *UnitOfWork) begin(ctx context.Context) error {
	if before, ok := cqrs.KeyChainFromContext(ctx).Before().(*txn.Unit); ok {
		if err := before.Ended(ctx); err != nil {
			return err
		}
	}
	select {
	case u.ownTransactions <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, err := txn.FromContext(ctx); err != nil {
		<-u.ownTransactions
		return err
	}
	return nil
}

// NeedsProcessing implements cqrs.Inbox.
func (u *UnitOfWork) NeedsProcessing(ctx context.Context, d cqrs.Delivery) (bool, error) {
	if d.Expired(u.clock()) {
		return false, nil
	}
	outcome, err := u.inbox.LookUp(ctx, d.Consumer, d.InboxMeta())
	return outcome == cqrs.Processed, err
}

// Prefetch has a delivery looked up that waits for others of its key.
func (u *UnitOfWork) Prefetch(d cqrs.Delivery) { u.inbox.Prefetch(d.Consumer, d.InboxMeta()) }

// Handle implements cqrs.Inbox. Nearly every message is new: it is handled without looking whether it is, and its claim, which is committed
// with what comes of it, fails if it is not. Then, or if anything else goes wrong, it is handled again after a look.
func (u *UnitOfWork) Handle(ctx context.Context, d cqrs.Delivery, work func(ctx context.Context) error) (outcome cqrs.Outcome, err error) {
	optimistic := u.inbox.Optimistic(d.InboxMeta())
	err = u.Within(cqrs.WithMeta(ctx, d.Meta), func(ctx context.Context) error {
		optimisticNow := optimistic
		optimistic = false // next time
		outcome, err = cqrs.Receive(ctx, inboxUnit{u.inbox, u.bus, optimisticNow}, d, u.clock(), func(ctx context.Context) (err error) {
			if !optimisticNow {
				return work(ctx)
			}
			defer func() {
				if value := recover(); value != nil {
					err = fmt.Errorf("%w: panic: %v", errUnverified, value) // if it is new it comes again, with its stack
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

// VerifyDuplicates has every message looked up before it is handled, for some time from now on and for as long again whenever one came that was not
// new. Without it that is 10 s, from the first such message on.
func (u *UnitOfWork) VerifyDuplicates(d time.Duration) {
	u.inbox.VerifyFor = d
	u.inbox.VerifyDuplicates()
}

// errUnverified says that a message came to nothing that was taken for new. It may not be.
var errUnverified = fmt.Errorf("not looked up: %w", cqrs.ErrConflict)

// inboxUnit implements cqrs.InboxUnit on the unit of work of the context.
type inboxUnit struct {
	inbox      *inbox.Inbox
	bus        EventBus
	optimistic bool // the message is new
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
	return unit.session.Refused(ctx)
}

func (u inboxUnit) Publish(ctx context.Context, e cqrs.Event) error { return u.bus.Publish(ctx, e) }

func (inboxUnit) AnswerIfSilent(ctx context.Context, e cqrs.Event) error {
	ctx.Value(unitKey{}).(*unit).silent = &e
	return nil
}
