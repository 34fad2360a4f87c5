// Package txn carries the transaction of a unit of work in its context, and tells PostgreSQL's errors apart.
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

type key struct{}

// With puts a transaction into a context.
func With(ctx context.Context, tx *sqlx.Tx) context.Context { return context.WithValue(ctx, key{}, tx) }

// From returns the transaction of ctx, or an error that says whose fault it is that there is none.
func From(ctx context.Context) (*sqlx.Tx, error) {
	tx, ok := ctx.Value(key{}).(*sqlx.Tx)
	if !ok {
		return nil, errors.New("called outside a unit of work")
	}
	return tx, nil
}

// Or returns the transaction of ctx, or db outside one.
func Or(ctx context.Context, db *sqlx.DB) sqlx.ExtContext {
	if tx, ok := ctx.Value(key{}).(*sqlx.Tx); ok {
		return tx
	}
	return db
}

// Classify wraps a database error with the kind that decides what becomes of the message, and with what was being done.
func Classify(err error, doing string) error {
	if err == nil {
		return nil
	}
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", doing, kind, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func kindOf(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "40001", pg.Code == "40P01": // serialization failure, deadlock
			return app.ErrConflict
		case pg.Code == "23505" && pg.ConstraintName == "events_pkey":
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
