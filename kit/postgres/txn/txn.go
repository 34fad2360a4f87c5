// Package txn has the common parts of the packages of postgres: the statements that a unit of work will execute, a unit's own transaction,
// and the classification of PostgreSQL's errors.
package txn

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
)

// FromContext returns the unit's own transaction, and begins it if the unit has none. From then on the unit reads and writes in it, and
// commits separately from other units.
func FromContext(ctx context.Context) (*sqlx.Tx, error) {
	u := UnitFromContext(ctx)
	if u == nil {
		return nil, errors.New("called outside a unit of work")
	}
	if u.joined {
		return nil, errNotFirst
	}
	u.used = true
	return u.ownTx(ctx)
}

// TxOrDB returns the transaction of ctx, or db if there is none.
func TxOrDB(ctx context.Context, db *sqlx.DB) sqlx.ExtContext {
	if u := UnitFromContext(ctx); u != nil && u.tx != nil {
		return u.tx
	}
	return db
}

// InTransaction runs statements in the transaction of the unit of work of ctx, which commits them, or in a transaction of their own if there
// is no unit. The error of a commit is classified.
func InTransaction(ctx context.Context, db *sqlx.DB, work func(tx sqlx.ExtContext) error) error {
	if UnitFromContext(ctx) != nil {
		tx, err := FromContext(ctx)
		if err != nil {
			return err
		}
		return work(tx)
	}
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return Classify(err, "begin a transaction")
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if err := work(tx); err != nil {
		return err
	}
	return Classify(tx.Commit(), "commit")
}

// Codes of errors that our own statements raise by the function demand.
const (
	codeRefused  = "MR001" // with a sentence for a person
	codeConflict = "MR002" // another transaction was first
	codeGap      = "MR003" // an event without the one before it: the unit has read a stale stream
)

// CodeBehind is the code of the error that an earlier message of a claimed key was not handled yet. It is a conflict.
const CodeBehind = "MR004"

// IsStale tells whether an error says that a stream has changed since the unit has read it.
func IsStale(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == codeConflict || pg.Code == codeGap || pg.ConstraintName == "events_pkey")
}

// Classify wraps a database error with the operation that failed and the kind that decides whether the message is retried.
func Classify(err error, doing string) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeRefused {
		return fmt.Errorf("%s: %s", doing, pg.Message)
	}
	if isUndefined(err) {
		doing += " (have the kit's migrations been applied? millrace migrate up, or package migrations)"
	}
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", doing, kind, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// isUndefined tells whether a table, a column or a function does not exist.
func isUndefined(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "42P01" || pg.Code == "42703" || pg.Code == "42883")
}

// taken are the constraints whose violation means that another transaction was first.
var taken = map[string]bool{"events_pkey": true, "inbox_pkey": true, "inbox_barrier": true, "idempotency_keys_pkey": true}

// kindOf returns the kind of a database error; nil if it is unknown. An error that PostgreSQL answers is permanent unless its class says
// that the same statement may succeed later: whatever the cause is (bytes that text cannot hold, a row that is too large, a constraint), the
// statement fails again.
func kindOf(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok && unreachable(err):
		return cqrs.ErrTransient
	case !ok || pg.Code == codeRefused:
		return nil
	case pg.Code == "40001", pg.Code == "40P01", pg.Code == codeConflict, pg.Code == codeGap, pg.Code == CodeBehind: // serialization failure, deadlock
		return cqrs.ErrConflict
	case pg.Code == "23505" && taken[pg.ConstraintName]:
		return cqrs.ErrConflict
	case transientClasses[pg.Code[:min(2, len(pg.Code))]], transientCodes[pg.Code], stalePlan(pg):
		return cqrs.ErrTransient
	}
	return cqrs.ErrRejected
}

// transientClasses are the SQLSTATE classes of transient errors: connection, transaction rollback, resources, object in use, operator
// intervention, I/O and other system errors.
var transientClasses = map[string]bool{"08": true, "40": true, "53": true, "55": true, "57": true, "58": true}

// transientCodes are transient errors of other classes: the server is read-only (a failover), the server ended an idle transaction, a pooler
// has given the session's prepared statements to another session.
var transientCodes = map[string]bool{"25006": true, "25P03": true, "26000": true}

// stalePlan tells whether a prepared statement was made before a migration changed its table. The driver has forgotten it by now.
func stalePlan(pg *pgconn.PgError) bool {
	return pg.Code == "0A000" && strings.Contains(pg.Message, "cached plan")
}

// IsUnavailable tells whether the database as a whole cannot answer, so that splitting a batch does not help.
func IsUnavailable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err != nil && unreachable(err)
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "08", "53", "58":
		return true
	}
	return pg.Code == "25006" || strings.HasPrefix(pg.Code, "57P")
}

// unreachable tells whether an error says that there is no connection.
func unreachable(err error) bool {
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	return connect || network || pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed")
}
