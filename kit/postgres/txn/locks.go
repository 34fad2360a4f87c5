// Locks that are waited for too long, and which unit of a commit wanted them. TestCommitAfterALockIsReleased and TestLockTimeoutOfTheConnectionIsRestored show it.

package txn

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// WaitError is the error of a statement that waited too long for a lock, or ran too long.
type WaitError struct {
	statement statement
	Slow      bool // it did not wait for a lock
	err       error
}

func (e *WaitError) Error() string { return e.err.Error() }
func (e *WaitError) Unwrap() error { return e.err }

// Statement identifies the statement.
func (e *WaitError) Statement() any { return e.statement }

// waited makes a *WaitError of an error of a statement that took too long.
func waited(s statement, err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != "55P03" && pg.Code != "57014" {
		return err
	}
	return &WaitError{s, pg.Code == "57014", err}
}

// Rows returns one unit for each row of the statement that ran into a lock.
func (u *Unit) Rows(e *WaitError) (rows []*Unit) {
	for _, w := range u.writes {
		if w.statement == e.statement {
			rows = append(rows, &Unit{db: u.db, writes: []write{w}})
		}
	}
	return rows
}

// TryOut writes the unit's rows in a transaction of its own and rolls it back. If it waits for a lock for longer than wait, the error is a
// *WaitError.
func (u *Unit) TryOut(ctx context.Context, wait time.Duration) error {
	b, statements, err := batchOf([]*Unit{u}, Waits{Lock: wait})
	if err != nil {
		return err
	}
	if _, err := u.ownTx(ctx); err != nil {
		return err
	}
	defer u.Close()
	return send(ctx, u.conn.Conn, b, statements)
}

// Writes tells whether the unit has rows for the statement of e.
func (u *Unit) Writes(e *WaitError) bool {
	return slices.ContainsFunc(u.writes, func(w write) bool { return w.statement == e.statement })
}

// Lock identifies a lock by its statement and the name that the statement gives it.
type Lock struct {
	statement statement
	name      string
}

// Locks returns the locks that the unit takes when it commits.
func (u *Unit) Locks() (locks []Lock) {
	for _, w := range u.writes {
		if name := w.statement.locks(w.row); name != "" {
			locks = append(locks, Lock{w.statement, name})
		}
	}
	return locks
}

// Contended tells whether waiting for a lock is normal for the unit.
func (u *Unit) Contended() bool {
	return slices.ContainsFunc(u.writes, func(w write) bool { return w.statement.contended() })
}
