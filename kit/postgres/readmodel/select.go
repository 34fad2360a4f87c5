package readmodel

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/jmoiron/sqlx/reflectx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// mapper finds columns as the functions that write rows do.
var mapper = reflectx.NewMapperFunc("db", snake)

// Select reads rows into values of R, a struct whose fields are columns. What names them in an error: "orders".
func Select[R any](ctx context.Context, db *sqlx.DB, what, query string, args ...any) ([]R, error) {
	named := *db
	named.Mapper = mapper
	rows := []R{} // not nil, which JSON has as null
	if err := named.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, txn.Classify(err, "read "+what)
	}
	return rows, nil
}

// Get reads one row. The error wraps cqrs.ErrNotFound if there is none. What names it: "stock of MUG-01".
func Get[R any](ctx context.Context, db *sqlx.DB, what, query string, args ...any) (row R, err error) {
	rows, err := Select[R](ctx, db, what, query, args...)
	if err != nil {
		return row, err
	}
	if len(rows) == 0 {
		return row, fmt.Errorf("%s: %w", what, cqrs.ErrNotFound)
	}
	return rows[0], nil
}
