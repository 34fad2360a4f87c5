// Units that wait for locks (ADR 22). A commit group never waits for a lock: a unit that runs into one leaves the group, waits while it holds no lock itself, and joins a
// later group. TestCommitGroupIsolatesABadUnit and TestInstancesThatWantTheSameDoNotBlockEachOther show it.

package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// maxDetached is the number of units that leave a group one by one because of one statement. Then the whole table may be locked, and the
// other units that write it leave together.
const maxDetached = 8

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
			if c.givesUp() {
				return true
			}
			c.session.Release()
			wait.behind = append(wait.behind, c)
			return true
		}
	}
	return false
}

// detach makes a unit wait outside its group. Other units may use its streams meanwhile.
func (g *groupCommit) detach(c *committing, waited *txn.WaitError) {
	if c.givesUp() {
		return
	}
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

// givesUp ends a unit with claims, because the messages of the claimed keys would wait too. The unit runs again without claims.
func (c *committing) givesUp() bool {
	if len(c.claims) == 0 {
		return false
	}
	c.end(errClaimsWait)
	return true
}

var errClaimsWait = fmt.Errorf("wait for a lock with claimed keys: %w", cqrs.ErrConflict)

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

// register makes a unit the one that waits for a lock. If another unit waits for it, register first waits for that unit. Leave makes the units that queue behind this one join a
// group.
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
