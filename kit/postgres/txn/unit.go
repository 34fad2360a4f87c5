package txn

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
)

// Unit collects the rows that a unit of work writes. It commits in one transaction with other units, unless it has begun a transaction of its
// own. One goroutine uses a Unit until it is committed.
type Unit struct {
	db           *sqlx.DB
	conn         *sqlx.Conn
	tx           *sqlx.Tx
	writes       []write
	dependencies []*Unit
	ended        chan struct{} // closed once it is known whether it was committed
	err          error         // why it was not
	after        []func()
	admit        func(ctx context.Context) (release func(), err error)
	release      func() // of admit, while the unit has a transaction of its own
}

type write struct {
	statement statement
	row       any
}

type unitKey struct{}

// NewUnit begins a unit and puts it into the context.
func NewUnit(ctx context.Context, db *sqlx.DB) (context.Context, *Unit) {
	u := &Unit{db: db, ended: make(chan struct{})}
	return context.WithValue(ctx, unitKey{}, u), u
}

// UnitFromContext returns the unit of ctx, nil if there is none.
func UnitFromContext(ctx context.Context) *Unit {
	u, _ := ctx.Value(unitKey{}).(*Unit)
	return u
}

// WithTx makes a transaction that the caller has begun that of a unit in the context. The caller commits it.
func WithTx(ctx context.Context, tx *sqlx.Tx) context.Context {
	ctx, u := NewUnit(ctx, nil)
	u.tx = tx
	return ctx
}

// OwnTransaction tells whether the unit has a transaction of its own.
func (u *Unit) OwnTransaction() bool { return u.tx != nil }

// Admit makes the unit call admit before it begins a transaction of its own, and what that returns when the transaction has ended.
func (u *Unit) Admit(admit func(ctx context.Context) (release func(), err error)) { u.admit = admit }

func (u *Unit) ownTx(ctx context.Context) (*sqlx.Tx, error) {
	if u.tx != nil {
		return u.tx, nil
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

// DependsOn makes the unit fail if another unit fails whose writes this unit has read. Units commit in the order in which they are submitted.
func (u *Unit) DependsOn(other *Unit) {
	if other != nil && other != u && !slices.Contains(u.dependencies, other) {
		u.dependencies = append(u.dependencies, other)
	}
}

// Pending tells whether the unit has neither committed nor failed yet.
func (u *Unit) Pending() bool {
	select {
	case <-u.ended:
		return false
	default:
		return true
	}
}

// Failed tells whether the unit was not committed.
func (u *Unit) Failed() bool { return !u.Pending() && u.err != nil }

// After calls f once the unit has committed.
func (u *Unit) After(f func()) { u.after = append(u.after, f) }

// End records the result of the unit and drops its rows: cached streams keep a reference to the last unit that wrote them, and would keep the
// rows in memory.
func (u *Unit) End(err error) {
	after := u.after
	u.writes, u.dependencies, u.after = nil, nil, nil
	u.err = err
	close(u.ended)
	if err == nil {
		for _, f := range after {
			f()
		}
	}
}

// errDependencyFailed is the error of a unit that has read writes of a unit that failed.
var errDependencyFailed = fmt.Errorf("what it builds on was not committed: %w", cqrs.ErrConflict)

// Ended waits until the unit has committed or failed. The error is ctx's.
func (u *Unit) Ended(ctx context.Context) error {
	select {
	case <-u.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitForDependencies waits until all units on which this one depends have committed or failed. The error is cqrs.ErrConflict if one of them
// failed.
func (u *Unit) WaitForDependencies(ctx context.Context) error {
	for _, n := range u.dependencies {
		if err := n.Ended(ctx); err != nil {
			return err
		}
	}
	return u.DependencyError()
}

// WaitsFor tells whether the unit depends on a pending unit that is not in a set.
func (u *Unit) WaitsFor(among map[*Unit]bool) bool {
	return slices.ContainsFunc(u.dependencies, func(n *Unit) bool { return !among[n] && n.Pending() })
}

// Detach ends the unit, so that no other unit builds on it, and returns a new unit with the same writes. Units that depend on the ended one
// fail.
func (u *Unit) Detach() *Unit {
	left := &Unit{db: u.db, writes: u.writes, dependencies: u.dependencies, after: u.after, ended: make(chan struct{})}
	u.End(errDependencyFailed)
	return left
}

// Err is the error of a unit that was not committed.
func (u *Unit) Err() error { return u.err }

// DependencyError is an error, cqrs.ErrConflict, if a unit on which this one depends has failed.
func (u *Unit) DependencyError() error {
	for _, n := range u.dependencies {
		if n.Failed() {
			return errDependencyFailed
		}
	}
	return nil
}

// Savepoint marks the writes so far, for RollbackTo.
func (u *Unit) Savepoint() int { return len(u.writes) }

// RollbackTo drops the writes after a savepoint.
func (u *Unit) RollbackTo(mark int) { u.writes = u.writes[:mark] }

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
	return send(ctx, u.conn.Conn, first, slices.Concat([]statement{setWaits}, statements, []statement{setWaits}))
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

// Waits limits how long each statement of a commit may wait for a lock, and how long it may run. Zero keeps the setting of the connection.
type Waits struct{ Lock, Statement time.Duration }

var setWaits statement = &Statement[Waits]{
	Doing: "set time limits",
	Query: func(w []Waits) (string, []any, error) {
		return `SELECT set_config('lock_timeout', COALESCE(NULLIF($1, '0'), current_setting('lock_timeout')), true),
			set_config('statement_timeout', COALESCE(NULLIF($2, '0'), current_setting('statement_timeout')), true)`,
			[]any{milliseconds(w[0].Lock), milliseconds(w[0].Statement)}, nil
	},
}

// Commit commits units in one transaction and one round trip, all or none. A unit with a transaction of its own commits alone.
func Commit(ctx context.Context, db *sqlx.DB, units []*Unit) error {
	return CommitWithin(ctx, db, units, Waits{})
}

// CommitWithin is Commit with time limits for each statement. A statement that exceeds one fails with a *WaitError.
func CommitWithin(ctx context.Context, db *sqlx.DB, units []*Unit, limits Waits) error {
	b, statements, err := batchOf(units, limits)
	if err != nil {
		return err
	}
	if u := units[0]; u.tx != nil {
		if err := send(ctx, u.conn.Conn, b, statements); err != nil {
			return err
		}
		return Classify(u.tx.Commit(), "commit")
	}
	if b.Len() == 0 {
		return nil
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return Classify(err, "commit")
	}
	defer conn.Close() //nolint:errcheck // back to the pool
	if limits.Lock > 0 {
		if err := parseOnce(ctx, conn, b, statements, limits.Lock); err != nil {
			return err
		}
	}
	return send(ctx, conn, b, statements)
}

// parseOnce makes a connection parse statements that are new to it within a time limit. PostgreSQL locks the tables of a statement to parse
// it, and the driver prepares statements before the batch sets its time limits, so without this the preparation could wait for a lock without
// limit.
func parseOnce(ctx context.Context, conn *sql.Conn, b *pgx.Batch, statements []statement, lock time.Duration) error {
	return conn.Raw(func(driver any) (err error) {
		pg := driver.(interface{ Conn() *pgx.Conn }).Conn().PgConn()
		limited := false
		for i, q := range b.QueuedQueries {
			seen := "millrace parsed " + q.SQL
			if pg.CustomData()[seen] != nil {
				continue
			}
			if !limited {
				limited = true
				if err := pg.Exec(ctx, `BEGIN; SET LOCAL lock_timeout = `+milliseconds(lock)).Close(); err != nil {
					return Classify(err, "set time limits")
				}
				// The end of the transaction restores what the connection was set to. RESET would not: it takes the server's value.
				defer func() { err = cmp.Or(err, Classify(pg.Exec(ctx, `ROLLBACK`).Close(), "set time limits")) }()
			}
			if _, err := pg.Prepare(ctx, "", q.SQL, nil); err != nil {
				return waited(statements[i], Classify(err, statements[i].doing()))
			}
			pg.CustomData()[seen] = true
		}
		return nil
	})
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

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

// send sends a batch in one round trip. Outside a transaction PostgreSQL executes a batch as one transaction.
func send(ctx context.Context, conn *sql.Conn, b *pgx.Batch, statements []statement) error {
	if b.Len() == 0 {
		return nil
	}
	return conn.Raw(func(driver any) error {
		results := sender(driver).SendBatch(ctx, b)
		err := error(nil)
		for i, q := range b.QueuedQueries {
			if q.Fn != nil {
				err = q.Fn(results)
			} else {
				_, err = results.Exec()
			}
			if err != nil {
				err = waited(statements[i], Classify(err, statements[i].doing()))
				break
			}
		}
		if closing := results.Close(); err == nil {
			err = Classify(closing, "commit")
		}
		return err
	})
}

// Send sends statements in one round trip: in the unit's own transaction if it has one, else in a transaction for this batch. Each statement
// reads its own result.
func Send(ctx context.Context, db *sqlx.DB, u *Unit, b *pgx.Batch) error {
	if u != nil && u.conn != nil {
		return u.conn.Raw(func(driver any) error { return sender(driver).SendBatch(ctx, b).Close() })
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // back to the pool
	return conn.Raw(func(driver any) error { return sender(driver).SendBatch(ctx, b).Close() })
}

type batchSender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// sender is pgx's connection below that of database/sql.
func sender(driver any) batchSender {
	if s, ok := driver.(batchSender); ok {
		return s
	}
	return driver.(*stdlib.Conn).Conn()
}
