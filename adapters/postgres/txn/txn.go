// Package txn is what the parts of a unit of work share: what it will write, the transaction of its own if it needs one, and how
// PostgreSQL's errors are told apart.
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

	"github.com/millrace/millrace/app"
)

// From returns the transaction of the unit of work of ctx, which begins here if it has none yet. From then on the unit reads and
// writes in it, and commits apart from others. The error says whose fault it is that there is none.
func From(ctx context.Context) (*sqlx.Tx, error) {
	u := Of(ctx)
	if u == nil {
		return nil, errors.New("called outside a unit of work")
	}
	return u.own(ctx)
}

// Or returns the transaction of ctx, or db if there is none.
func Or(ctx context.Context, db *sqlx.DB) sqlx.ExtContext {
	if u := Of(ctx); u != nil && u.tx != nil {
		return u.tx
	}
	return db
}

// Codes of errors that our own statements raise by the function demand.
const (
	codeRefused  = "MR001" // with a sentence for a person
	codeConflict = "MR002" // somebody else was first
)

// Stale tells whether an error says that a stream was not as the unit had read it.
func Stale(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == codeConflict || pg.ConstraintName == "events_pkey")
}

// Classify wraps a database error with the kind that decides what becomes of the message, and with what was being done.
func Classify(err error, doing string) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeRefused {
		return fmt.Errorf("%s: %s", doing, pg.Message)
	}
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", doing, kind, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// taken are the constraints whose violation says that somebody else was first.
var taken = map[string]bool{"events_pkey": true, "inbox_pkey": true, "inbox_barrier": true, "idempotency_keys_pkey": true}

func kindOf(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "40001", pg.Code == "40P01", pg.Code == codeConflict: // serialization failure, deadlock
			return app.ErrConflict
		case pg.Code == "23505" && taken[pg.ConstraintName]:
			return app.ErrConflict
		case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "53"), strings.HasPrefix(pg.Code, "57"),
			strings.HasPrefix(pg.Code, "58"), pg.Code == "55P03", pg.Code == "25006": // connection, resources, shutdown, I/O, lock, read-only
			return app.ErrTransient
		}
		return nil
	}
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	if connect || network || pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") {
		return app.ErrTransient
	}
	return nil
}
