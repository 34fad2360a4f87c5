package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	ctx     context.Context //nolint:containedctx // of the caller, who waits
	rejoins int             // how often it has waited for a lock
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
		ready = append(ready, c)
		if c.Contended() {
			lockWait = contendedLockWait
		}
	}
	g.try(ctx, ready, lockWait, map[any]int{})
	return make([]struct{}, len(all)), nil
}

// maxDetached is the number of units that leave a group one by one because of one statement. Then the whole table may be locked, and the
// other units that write it leave together.
const maxDetached = 8

// try commits units in one transaction. Left counts the units of the group that have left it, by the statement that ran into a lock.
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
		c.Committed()
	}
	err := cqrs.Protect(func() error { g.committed(all); return nil })
	for _, c := range all {
		c.end(err) // it is committed; a caller that tries again finds that in its inbox row
	}
	return nil
}

// detachWriters takes the units out of the group that write the statement which waited too long, and commits the others.
func (g *groupCommit) detachWriters(ctx context.Context, all []*committing, waited *txn.WaitError, left map[any]int) {
	var stay []*committing
	writers := slices.ContainsFunc(all, func(c *committing) bool { return c.Writes(waited) })
	for _, c := range all {
		if writers && !c.Writes(waited) {
			stay = append(stay, c)
			continue
		}
		left[waited.Statement()]++
		if !g.queueBehind(c, c.Locks()) {
			g.detach(c, waited)
		}
	}
	if len(stay) > 0 {
		g.try(ctx, stay, splitLockWait, left)
	}
}

// queueBehind makes a unit wait in memory if another unit waits for one of its locks: the unit's group would run into the same lock.
func (g *groupCommit) queueBehind(c *committing, locks []txn.Lock) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range locks {
		if wait := g.waits[l]; wait != nil {
			c.session.Release()
			wait.behind = append(wait.behind, c)
			return true
		}
	}
	return false
}

// detach makes a unit wait outside its group. Others may have its streams meanwhile.
func (g *groupCommit) detach(c *committing, waited *txn.WaitError) {
	c.session.Release()
	go func() {
		again, err := g.waitDetached(c, waited)
		switch {
		case err != nil:
			c.end(err)
		case again:
			g.enqueue(c)
		}
	}()
}

// maxRejoins is how often a unit waits for a lock and joins a group again. Then it commits in a transaction of its own, which waits for the
// lock: a unit that holds no lock while it waits may lose against other units each time.
const maxRejoins = 5

// waitDetached waits for the locks that a unit needs, and tells whether the unit joins a group again. A slow unit commits here.
func (g *groupCommit) waitDetached(c *committing, waited *txn.WaitError) (again bool, err error) {
	if c.rejoins++; c.rejoins <= maxRejoins && !waited.Slow {
		err := g.waitForLocks(c.ctx, c.Unit, waited)
		return err == nil, err
	}
	return false, g.holdingToken(c.ctx, func(ctx context.Context) error {
		return g.write(ctx, []*committing{c}, txn.Waits{})
	})
}

// holdingToken calls f when few enough detached units are active. It waits as long as ctx; f gets the time of a unit.
func (g *groupCommit) holdingToken(ctx context.Context, f func(ctx context.Context) error) error {
	select {
	case g.waiting <- struct{}{}:
		defer func() { <-g.waiting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unitTimeout)
	defer cancel()
	return f(ctx)
}

const (
	// lockPatience is how long a unit waits for a lock. Then its caller gets an error, and tries again later.
	lockPatience = 5 * time.Second

	// lockTurn is how long a unit waits for a lock before another waiting unit gets its connection.
	lockTurn = 500 * time.Millisecond
)

// waitForLocks waits until each row of the statement that ran into a lock can be written. It tries each row in a transaction of its own:
// while the unit waits for one lock, it holds no other, so no other unit waits for it.
func (g *groupCommit) waitForLocks(ctx context.Context, u *txn.Unit, waited *txn.WaitError) error {
	for _, row := range u.Rows(waited) {
		if err := g.waitForLock(ctx, row); err != nil {
			return err
		}
	}
	return nil
}

func (g *groupCommit) waitForLock(ctx context.Context, row *txn.Unit) error {
	leave, err := g.register(ctx, row.Locks())
	if err != nil {
		return err
	}
	defer leave()
	for began := time.Now(); ; {
		err := g.holdingToken(ctx, func(ctx context.Context) error { return row.TryOut(ctx, lockTurn) })
		_, waited := errors.AsType[*txn.WaitError](err)
		switch {
		case waited && time.Since(began) < lockPatience:
		case waited, txn.IsUnavailable(err), ctx.Err() != nil:
			return err
		default:
			return nil // it holds no lock; another error is judged where the statements before it are executed too
		}
	}
}

// register notes that a unit waits for a lock, after any other unit that does. Leave makes the units that queue behind it join a group.
func (g *groupCommit) register(ctx context.Context, locks []txn.Lock) (leave func(), err error) {
	if len(locks) == 0 {
		return func() {}, nil
	}
	lock, mine := locks[0], &lockWait{done: make(chan struct{})}
	for {
		g.mu.Lock()
		other := g.waits[lock]
		if other == nil {
			g.waits[lock] = mine
		}
		g.mu.Unlock()
		if other == nil {
			break
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return func() {
		g.mu.Lock()
		delete(g.waits, lock)
		behind := mine.behind
		g.mu.Unlock()
		close(mine.done)
		for _, c := range behind {
			g.enqueue(c)
		}
	}, nil
}

// lockWait is a lock for which a unit waits.
type lockWait struct {
	done   chan struct{} // closed when that unit waits no longer
	behind []*committing // units that need the same lock
}

// lockedOutError says that a unit with a transaction of its own ran into a lock, and was rolled back.
type lockedOutError struct {
	*txn.WaitError
	unit *txn.Unit
}

// lockedOut makes a lockedOutError of an error of a unit with a transaction of its own, if it waited too long for a lock.
func lockedOut(err error, u *txn.Unit) error {
	if waited, ok := errors.AsType[*txn.WaitError](err); ok {
		return &lockedOutError{waited, u}
	}
	return err
}

// wait waits for the lock. The error is then cqrs.ErrConflict: the unit runs again from the start.
func (g *groupCommit) wait(ctx context.Context, out *lockedOutError) error {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	return cmp.Or(g.waitForLocks(ctx, out.unit, out.WaitError), fmt.Errorf("%w: %w", cqrs.ErrConflict, out.WaitError))
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
