// Package readmodel keeps the read models: a table each, written by a projection and read by queries. All of them are listed here.
package readmodel

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/sagas"
)

// Model is a read model: what builds it, and its table.
type Model struct {
	app.Projection
	Table string
}

// All lists every read model. They write where the unit of work of their context writes.
func All() []Model {
	return []Model{
		{projection.Orders(Orders{}), "order_rows"},
		{projection.Stock(Stock{}), "stock_rows"},
		{sagas.Projection(Sagas{}), "saga_rows"},
	}
}

func counted[S ~string](ctx context.Context, db *sqlx.DB, table string, atMost int, statuses ...S) (map[S]int, error) {
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
