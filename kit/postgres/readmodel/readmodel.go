// Package readmodel has common parts of read models, and the kit's own read model: the list of saga instances.
package readmodel

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Model is a read model: the projection that writes it, and its table.
type Model struct {
	cqrs.Projection
	Table string
}

// CountByStatus counts the rows of a table by its column status, up to atMost of each status, so that it does not become slower with the
// table. The table's name is part of the statement: never take it from outside.
func CountByStatus[S ~string](ctx context.Context, db *sqlx.DB, table string, atMost int, statuses ...S) (map[S]int, error) {
	var rows []struct {
		Status S   `db:"status"`
		N      int `db:"n"`
	}
	wanted := make([]string, len(statuses))
	for i, s := range statuses {
		wanted[i] = string(s)
	}
	err := db.SelectContext(ctx, &rows, `SELECT s.status, (SELECT count(*) FROM (SELECT FROM `+table+` WHERE status = s.status LIMIT $2) found) AS n
		FROM unnest($1::text[]) AS s(status)`, wanted, atMost)
	if err != nil {
		return nil, txn.Classify(err, "count "+table)
	}
	out := map[S]int{}
	for _, row := range rows {
		out[row.Status] = row.N
	}
	return out, nil
}
