package views

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Orders is the list of orders.
type Orders struct{ db *sqlx.DB }

// NewOrders makes an Orders.
func NewOrders(db *sqlx.DB) Orders { return Orders{db} }

// Put implements projection.OrderRows.
func (r Orders) Put(ctx context.Context, o query.Order) error {
	lines, err := json.Marshal(o.Lines)
	if err != nil {
		return err
	}
	return putOrders.Write(ctx, orderRow{
		ID: o.ID, CustomerID: o.CustomerID, Status: o.Status, Lines: lines, Total: o.Total.Amount, Currency: o.Total.Currency,
		PlacedAt: o.PlacedAt, UpdatedAt: o.UpdatedAt, Version: o.Version,
	})
}

// Decide implements projection.OrderRows.
func (r Orders) Decide(ctx context.Context, o query.Order) error {
	return decideOrders.Write(ctx, orderRow{ID: o.ID, Status: o.Status, Reason: o.Reason, UpdatedAt: o.UpdatedAt, Version: o.Version})
}

var putOrders = &txn.Statement[orderRow]{
	Doing: "list orders that were placed", Rank: 50, Locks: func(r orderRow) string { return r.ID },
	Query: func(rows []orderRow) (string, []any, error) {
		n := len(rows)
		ids, customers, statuses, lines, totals := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]int64, n)
		currencies, placed, updated, versions := make([]string, n), make([]time.Time, n), make([]time.Time, n), make([]int32, n)
		for i, r := range rows {
			ids[i], customers[i], statuses[i], lines[i], totals[i] = r.ID, r.CustomerID, string(r.Status), string(r.Lines), r.Total
			currencies[i], placed[i], updated[i], versions[i] = r.Currency, r.PlacedAt, r.UpdatedAt, int32(r.Version)
		}
		return `
			INSERT INTO order_view (order_id, customer_id, status, lines, total, currency, placed_at, updated_at, version)
			SELECT id, customer, status, lines::json, total, currency, placed, updated, version
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::int[])
				AS o(id, customer, status, lines, total, currency, placed, updated, version) ON CONFLICT (order_id) DO NOTHING`,
			[]any{ids, customers, statuses, lines, totals, currencies, placed, updated, versions}, nil
	},
}

var decideOrders = &txn.Statement[orderRow]{
	Doing: "list orders that were decided", Rank: 51, Locks: func(r orderRow) string { return r.ID },
	Query: func(rows []orderRow) (string, []any, error) {
		n := len(rows)
		ids, statuses, reasons, updated, versions := make([]string, n), make([]string, n), make([]string, n), make([]time.Time, n), make([]int32, n)
		for i, r := range rows {
			ids[i], statuses[i], reasons[i], updated[i], versions[i] = r.ID, string(r.Status), r.Reason, r.UpdatedAt, int32(r.Version)
		}
		return `
			WITH d AS (
				SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::int[]) AS d(id, status, reason, updated, version)
			), there AS (
				SELECT demand(o.order_id IS NOT NULL, 'MR001', 'order ' || d.id || ' is decided, but was never placed here')
				FROM d LEFT JOIN LATERAL (SELECT order_id FROM order_view WHERE order_id = d.id OFFSET 0) o ON true
			), decided AS (
				UPDATE order_view o SET status = d.status, reason = d.reason, updated_at = d.updated, version = d.version
				FROM d WHERE o.order_id = d.id AND o.version < d.version)
			SELECT count(*) FROM there`, []any{ids, statuses, reasons, updated, versions}, nil
	},
}

type orderRow struct {
	ID         string       `db:"order_id"`
	CustomerID string       `db:"customer_id"`
	Status     order.Status `db:"status"`
	Reason     string       `db:"reason"`
	Lines      []byte       `db:"lines"`
	Total      int64        `db:"total"`
	Currency   string       `db:"currency"`
	PlacedAt   time.Time    `db:"placed_at"`
	UpdatedAt  time.Time    `db:"updated_at"`
	Version    int          `db:"version"`
}

// Count counts the orders of each status, up to a limit, so that it does not become slower with the history.
func (r Orders) Count(ctx context.Context, atMost int) (map[order.Status]int, error) {
	return readmodel.CountByStatus[order.Status](ctx, r.db, "order_view", atMost, order.Pending, order.IsConfirmed, order.IsCancelled)
}

// List implements query.OrderRows.
func (r Orders) List(ctx context.Context, q query.ListOrders) ([]query.Order, error) {
	var rows []orderRow
	err := r.db.SelectContext(ctx, &rows, `SELECT * FROM order_view
		WHERE ($1 = '' OR status = $1) AND ($2 = '' OR customer_id = $2) AND (placed_at, order_id) < ($3, $4)
			AND ($6 = '' OR order_id = $6 OR customer_id = $6)
		ORDER BY placed_at DESC, order_id DESC LIMIT $5`,
		string(q.Status), q.CustomerID, q.Before.At, q.Before.ID, q.Limit, q.Search)
	if err != nil {
		return nil, txn.Classify(err, "list orders")
	}
	orders := make([]query.Order, len(rows))
	for i, o := range rows {
		orders[i] = query.Order{
			ID: o.ID, CustomerID: o.CustomerID, Status: o.Status, Reason: o.Reason, Total: money.Money{Amount: o.Total, Currency: o.Currency},
			PlacedAt: o.PlacedAt.UTC(), UpdatedAt: o.UpdatedAt.UTC(), Version: o.Version,
		}
		if err := json.Unmarshal(o.Lines, &orders[i].Lines); err != nil {
			return nil, fmt.Errorf("lines of order %s: %w", o.ID, err)
		}
	}
	return orders, nil
}
