// Statements that write the rows of all units of a commit at once, in the order of their ranks, so that two commits never wait for each other in a circle.
// TestCommitGroupIsolatesAContendedStream and TestALockAndAStreamInTheOtherOrder show it.

package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/kit/cqrs"
)

// Statement writes rows of type R with one statement for the rows of many units.
type Statement[R any] struct {
	// Doing is the beginning of error texts.
	Doing string

	// Rank orders the statements of a commit, lowest first, and Doing those of the same rank. All commits use the same order, so that they do not
	// deadlock.
	Rank int

	// Query builds the statement for some rows. It must not skip a row silently: a row that cannot be written must be an error of the statement.
	Query func(rows []R) (query string, args []any, err error)

	// Read receives the rows that the statement returns. Optional.
	Read func(rows []R, result pgx.Rows) error

	// Locks names the lock that a row holds until its transaction ends: units whose rows have the same name wait for each other. Optional.
	Locks func(row R) string

	// Contended says that units of several instances often need the same lock, so that waiting for it is normal.
	Contended bool
}

// Write adds a row to the unit of ctx. It is written when the unit commits.
func (s *Statement[R]) Write(ctx context.Context, row R) error {
	u := UnitFromContext(ctx)
	if u == nil {
		return fmt.Errorf("%s: called outside a unit of work", s.Doing)
	}
	u.writes = append(u.writes, write{s, row})
	return nil
}

// Lock executes a statement that only locks in the unit's own transaction, now, and again at the commit. If it waits for longer than wait,
// the error is a *WaitError.
func (s *Statement[R]) Lock(ctx context.Context, rows []R, wait time.Duration) error {
	u := UnitFromContext(ctx)
	if u == nil || u.conn == nil {
		return fmt.Errorf("%s: called outside a transaction of the unit's own", s.Doing)
	}
	locking := &Unit{}
	for _, row := range rows {
		locking.writes = append(locking.writes, write{s, row})
	}
	u.writes = append(u.writes, locking.writes...)
	b, statements, err := batchOf([]*Unit{locking}, Waits{Lock: wait})
	if err != nil {
		return err
	}
	// Not RESET or DEFAULT: that is the server's value, and not the one that the connection was set to.
	first := &pgx.Batch{}
	first.Queue(`SELECT set_config('millrace.lock_timeout', current_setting('lock_timeout'), true)`)
	first.QueuedQueries = append(first.QueuedQueries, b.QueuedQueries...)
	first.Queue(`SELECT set_config('lock_timeout', current_setting('millrace.lock_timeout'), true)`)
	all := slices.Concat([]statement{setWaits}, statements, []statement{setWaits})
	if !u.joined {
		return send(ctx, u.conn.Conn, first, all)
	}
	// The messages before must be able to commit without this one.
	if _, err := u.tx.ExecContext(ctx, `SAVEPOINT joined`); err != nil {
		return Classify(err, s.Doing)
	}
	if err := send(ctx, u.conn.Conn, first, all); err != nil {
		_, undone := u.tx.ExecContext(ctx, `ROLLBACK TO SAVEPOINT joined`)
		return errors.Join(err, undone)
	}
	return nil
}

// Written returns the rows that the unit of ctx has added for this statement.
func (s *Statement[R]) Written(ctx context.Context) (rows []R) {
	for _, w := range UnitFromContext(ctx).writes {
		if w.statement == statement(s) {
			rows = append(rows, w.row.(R))
		}
	}
	return rows
}

// Withdraw drops a row that the unit of ctx has added for this statement. No savepoint after the row may be used any more.
func (s *Statement[R]) Withdraw(ctx context.Context, row R) {
	u := UnitFromContext(ctx)
	u.writes = slices.DeleteFunc(u.writes, func(w write) bool { return w.statement == statement(s) && w.row == any(row) })
}

type statement interface {
	doing() string
	rank() int
	queue(b *pgx.Batch, rows []any) error
	locks(row any) string
	contended() bool
}

func (s *Statement[R]) doing() string { return s.Doing }

func (s *Statement[R]) rank() int { return s.Rank }

func (s *Statement[R]) contended() bool { return s.Contended }

func (s *Statement[R]) locks(row any) string {
	if s.Locks == nil {
		return ""
	}
	return s.Locks(row.(R))
}

func (s *Statement[R]) queue(b *pgx.Batch, rows []any) error {
	typed := make([]R, len(rows))
	for i, row := range rows {
		typed[i] = row.(R)
	}
	query, args, err := s.Query(typed)
	if err != nil {
		return err
	}
	queued := b.Queue(query, args...)
	if s.Read != nil {
		queued.Query(func(result pgx.Rows) error { return s.Read(typed, result) })
	}
	return nil
}

// batchOf combines the rows of units into one batch with one statement per kind of row.
func batchOf(units []*Unit, limits Waits) (b *pgx.Batch, statements []statement, err error) {
	rows := map[statement][]any{}
	for _, u := range units {
		for _, w := range u.writes {
			if rows[w.statement] == nil {
				statements = append(statements, w.statement)
			}
			rows[w.statement] = append(rows[w.statement], w.row)
		}
	}
	slices.SortStableFunc(statements, func(a, b statement) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.doing(), b.doing()))
	})
	b = &pgx.Batch{}
	if limits != (Waits{}) && len(statements) > 0 {
		statements = slices.Insert(statements, 0, setWaits)
		rows[setWaits] = []any{limits}
	}
	for _, s := range statements {
		err := cqrs.Protect(func() error { return s.queue(b, rows[s]) })
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.doing(), err)
		}
	}
	return b, statements, nil
}
