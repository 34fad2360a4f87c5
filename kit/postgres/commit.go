// Group commit (ADR 10). Units that end at the same time commit in one transaction. A unit that cannot commit fails alone. TestGroupCommit, TestEachUnitFailsAlone and
// TestCommitGroupIsolatesABadUnit show it.

package postgres

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// maxGroup is the maximum number of units in a commit group.
const maxGroup = 200

// Time limits of a commit group's statements. Without them, one unit that waits for a row's lock stalls every commit of the instance.
// ADR 22 has the figures.
const (
	// groupLockWait is longer than a commit of another instance takes.
	groupLockWait = 20 * time.Millisecond

	// contendedLockWait is for groups with contended streams, where waiting for several commits is normal.
	contendedLockWait = 200 * time.Millisecond

	// splitLockWait is for the parts of a group that has already waited.
	splitLockWait = 5 * time.Millisecond

	// groupStatement is much longer than a statement of a full group takes.
	groupStatement = 2 * time.Second
)

// MinConns is the smallest pool of a service. Each of its two UnitsOfWork needs at least one connection for its group, one for a unit with a
// transaction of its own and one for a unit that waits for a lock: six. Two are left for look-ups and the relay.
const MinConns = 8

// ownTransactions is the maximum number of units of a UnitOfWork with transactions of their own, and of detached units that wait for locks.
// Those of two UnitsOfWork hold at most half of the pool, because they mostly wait and the other units need connections.
func ownTransactions(db *sqlx.DB) int {
	if n := db.Stats().MaxOpenConnections; n > 0 {
		return max(1, n/8)
	}
	return 8
}

// committing is a unit that is ready to commit.
type committing struct {
	*run
	ctx     context.Context //nolint:containedctx // of the caller, which waits
	rejoins int             // how often the unit has waited for a lock
}

// groupCommit commits units that end at the same time in one transaction. Each unit fails alone:
//
//   - A group never waits for a lock. The unit whose statement runs into a lock leaves the group, waits for the lock while it holds no other,
//     and joins a later group. The other units commit.
//   - A group that fails for another reason is halved until the bad unit fails alone.
//   - All units of a group fail only if the database is unavailable.
type groupCommit struct {
	db        *sqlx.DB
	groups    txn.Batcher[*committing, struct{}]
	waiting   chan struct{} // holds a token for each detached unit
	begins    func() (ended func())
	committed func([]*committing)

	mu    sync.Mutex
	waits map[txn.Lock]*lockWait // locks for which detached units wait
}

func newGroupCommit(db *sqlx.DB, begins func() (ended func()), committed func([]*committing)) *groupCommit {
	g := &groupCommit{
		db: db, waiting: make(chan struct{}, ownTransactions(db)), begins: begins, committed: committed, waits: map[txn.Lock]*lockWait{},
	}
	g.groups.Do, g.groups.Max, g.groups.Parallel = g.commit, maxGroup, 1
	return g
}

// enqueue adds a unit to the next group.
func (g *groupCommit) enqueue(c *committing) { g.groups.Enqueue(c) }

// commit commits the units of a group.
func (g *groupCommit) commit(all []*committing) ([]struct{}, error) {
	ctx, cancel := context.WithTimeout(context.Background(), unitTimeout)
	defer cancel()
	ready, lockWait := make([]*committing, 0, len(all)), groupLockWait
	for _, c := range all {
		if c.ctx.Err() != nil {
			c.end(c.ctx.Err())
			continue
		}
		if c.disturbed() {
			c.end(errDisturbed) // it would fail the group
			continue
		}
		ready = append(ready, c)
		if c.Contended() {
			lockWait = contendedLockWait
		}
	}
	g.try(ctx, ready, lockWait, map[any]int{})
	return make([]struct{}, len(all)), nil
}

// try commits units in one transaction. Left counts the units that have left the group, by the statement that ran into a lock.
func (g *groupCommit) try(ctx context.Context, all []*committing, lockWait time.Duration, left map[any]int) {
	var sound []*committing
	for _, c := range all {
		if !g.queueBehind(c, c.Locks()) {
			sound = append(sound, c)
		}
	}
	if len(sound) == 0 {
		return
	}
	err := g.write(ctx, sound, txn.Waits{Lock: lockWait, Statement: groupStatement})
	if err == nil {
		return
	}
	if failing := outbox.Failing(err); failing != nil && g.leave(sound, failing, err) {
		g.try(ctx, slices.DeleteFunc(sound, func(c *committing) bool { return c.failure() != nil }), lockWait, left)
		return
	}
	waited, ok := errors.AsType[*txn.WaitError](err)
	switch {
	case txn.IsUnavailable(err), ctx.Err() != nil:
		for _, c := range sound {
			c.end(err)
		}
	case ok && (len(sound) == 1 || waited.Slow || left[waited.Statement()] >= maxDetached):
		g.detachWriters(ctx, sound, waited, left)
	case len(sound) == 1:
		sound[0].end(err)
	default:
		if ok {
			lockWait = splitLockWait
		}
		half := len(sound) / 2
		g.try(ctx, sound[:half], lockWait, left)
		g.try(ctx, sound[half:], lockWait, left)
	}
}

// leave ends the units whose claims have failed. It returns false if there are none.
func (*groupCommit) leave(all []*committing, failing func(*outbox.Claim) bool, err error) (some bool) {
	for _, c := range all {
		if i := slices.IndexFunc(c.claims, failing); i >= 0 {
			c.claims[i].Failed()
			c.end(err)
			some = true
		}
	}
	return some
}

// write commits units in one transaction.
func (g *groupCommit) write(ctx context.Context, all []*committing, limits txn.Waits) error {
	units := make([]*txn.Unit, len(all))
	for i, c := range all {
		units[i] = c.Unit
	}
	ended := g.begins()
	defer ended()
	if err := txn.CommitWithin(ctx, g.db, units, limits); err != nil {
		return err
	}
	for _, c := range all {
		c.session.Committed()
		c.session.Release() // before the messages are delivered: their handlers need the streams
	}
	for _, c := range all {
		c.Committed()
		c.stored = true
	}
	err := cqrs.Protect(func() error { g.committed(all); return nil })
	for _, c := range all {
		c.end(err) // the unit is committed: a caller that tries again finds the inbox row
	}
	return nil
}

// committed reports the events and messages of committed units.
func (u *UnitOfWork) committed(all []*committing) {
	m, n := 0, 0
	for _, c := range all {
		m, n = m+len(c.events), n+len(c.messages)
	}
	events, messages := make([]cqrs.Event, 0, m), make([]*outbox.Message, 0, n)
	for _, c := range all {
		events, messages = append(events, c.events...), append(messages, c.messages...)
	}
	u.OnCommit(events, messages)
}
