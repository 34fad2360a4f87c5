// What a unit of work will write, with savepoints in memory. TestFailedUnitWritesNothing and TestRefusalInARun show it.

package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
)

// Unit collects the rows that a unit of work writes. It commits in one transaction with other units, unless it has begun a transaction of its
// own. One goroutine uses a Unit until it is committed.
type Unit struct {
	db      *sqlx.DB
	conn    *sqlx.Conn
	tx      *sqlx.Tx
	writes  []write
	after   []func()
	admit   func(ctx context.Context) (release func(), err error)
	release func() // of admit, while the unit has a transaction of its own
	used    bool   // FromContext has returned the transaction
	joined  bool
}

type write struct {
	statement statement
	row       any
}

type unitKey struct{}

// NewUnit begins a unit and puts it into the context.
func NewUnit(ctx context.Context, db *sqlx.DB) (context.Context, *Unit) {
	u := &Unit{db: db}
	return WithUnit(ctx, u), u
}

// WithUnit puts a unit into the context.
func WithUnit(ctx context.Context, u *Unit) context.Context {
	return context.WithValue(ctx, unitKey{}, u)
}

// UnitFromContext returns the unit of ctx, nil if there is none.
func UnitFromContext(ctx context.Context) *Unit {
	u, _ := ctx.Value(unitKey{}).(*Unit)
	return u
}

// WithTx makes a transaction that the caller has begun that of a unit in the context. The caller commits it.
func WithTx(ctx context.Context, tx *sqlx.Tx) context.Context {
	return WithUnit(ctx, &Unit{tx: tx})
}

// Begin begins a transaction of the unit's own, if it has none.
func (u *Unit) Begin(ctx context.Context) error {
	_, err := u.ownTx(ctx)
	return err
}

// errNotFirst makes a message run again after the messages before it.
var errNotFirst = fmt.Errorf("a transaction of its own begins after the messages before have committed: %w", cqrs.ErrConflict)

// Joinable tells whether the work of a further message may join the unit: no handler has executed statements in its own transaction.
func (u *Unit) Joinable() bool { return !u.used }

// Join says that the work of a further message joins the unit. That message may not use the unit's own transaction: it would not see what the
// messages before it write at the commit, and it could not be rolled back alone. FromContext fails with cqrs.ErrConflict.
func (u *Unit) Join() { u.joined = true }

// WithoutStatements calls f, which may add rows to the unit, but not use a transaction of its own: FromContext fails with cqrs.ErrConflict.
func (u *Unit) WithoutStatements(f func() error) error {
	defer func(joined bool) { u.joined = joined }(u.joined)
	u.joined = true
	return f()
}

// Joined tells whether further messages have joined the unit, even if their work was rolled back.
func (u *Unit) Joined() bool { return u.joined }

// OwnTransaction tells whether the unit has a transaction of its own.
func (u *Unit) OwnTransaction() bool { return u.tx != nil }

// Admit makes the unit call admit before it begins a transaction of its own, and what that returns when the transaction has ended.
func (u *Unit) Admit(admit func(ctx context.Context) (release func(), err error)) { u.admit = admit }

func (u *Unit) ownTx(ctx context.Context) (*sqlx.Tx, error) {
	if u.tx != nil {
		return u.tx, nil
	}
	if u.joined {
		return nil, errNotFirst
	}
	release := func() {}
	if u.admit != nil {
		var err error
		if release, err = u.admit(ctx); err != nil {
			return nil, err
		}
	}
	conn, err := u.db.Connx(ctx)
	if err != nil {
		release()
		return nil, Classify(err, "begin a unit of work")
	}
	tx, err := conn.BeginTxx(ctx, nil)
	if err != nil {
		err = errors.Join(Classify(err, "begin a unit of work"), conn.Close())
		release()
		return nil, err
	}
	u.conn, u.tx, u.release = conn, tx, release
	return tx, nil
}

// Close rolls back everything that was not committed. It may be called at any time, also repeatedly.
func (u *Unit) Close() {
	if u.tx != nil {
		_ = u.tx.Rollback() // after a commit it does nothing; before one, the connection's end does the same
		_ = u.conn.Close()  // back to the pool
		u.tx, u.conn = nil, nil
		if u.release != nil { // not that of WithTx
			u.release()
		}
	}
}

// After calls f once the unit has committed.
func (u *Unit) After(f func()) { u.after = append(u.after, f) }

// Committed drops the unit's rows and calls what After was given.
func (u *Unit) Committed() {
	after := u.after
	u.writes, u.after = nil, nil
	for _, f := range after {
		f()
	}
}

// Mark is a place in the writes of a unit.
type Mark struct{ writes, after int }

// Savepoint marks the writes so far, for RollbackTo.
func (u *Unit) Savepoint() Mark { return Mark{len(u.writes), len(u.after)} }

// RollbackTo drops the writes after a savepoint. What the unit's own transaction has executed stays.
func (u *Unit) RollbackTo(m Mark) { u.writes, u.after = u.writes[:m.writes], u.after[:m.after] }
