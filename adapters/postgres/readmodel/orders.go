// Package readmodel keeps the read models: a table each, written by a projection and read by queries.
package readmodel

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
)

// Orders is the list of orders.
type Orders struct{ db *sqlx.DB }

// NewOrders makes it.
func NewOrders(db *sqlx.DB) Orders { return Orders{db} }

// Put implements projection.OrderRows.
func (r Orders) Put(ctx context.Context, o query.Order) error {
	lines, err := json.Marshal(o.Lines)
	if err != nil {
		return err
	}
	_, err = r.db.ExecContext(ctx, `
		INSERT INTO order_rows (order_id, customer_id, status, lines, total, currency, placed_at, updated_at, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (order_id) DO NOTHING`,
		o.ID, o.CustomerID, o.Status, json.RawMessage(lines), o.Total.Amount, o.Total.Currency, o.PlacedAt, o.UpdatedAt, o.Version)
	return txn.Classify(err, "put order "+o.ID)
}

// Decide implements projection.OrderRows.
func (r Orders) Decide(ctx context.Context, o query.Order) error {
	var version int
	err := r.db.GetContext(ctx, &version, `
		WITH decided AS (
			UPDATE order_rows SET status = $2, reason = $3, updated_at = $4, version = $5 WHERE order_id = $1 AND version < $5 RETURNING version)
		SELECT COALESCE((SELECT version FROM decided), (SELECT version FROM order_rows WHERE order_id = $1), 0)`,
		o.ID, o.Status, o.Reason, o.UpdatedAt, o.Version)
	if err == nil && version == 0 {
		return fmt.Errorf("order %s is decided, but was never placed here", o.ID)
	}
	return txn.Classify(err, "decide order "+o.ID)
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

// List implements query.OrderRows.
func (r Orders) List(ctx context.Context, q query.ListOrders) ([]query.Order, error) {
	var rows []orderRow
	err := r.db.SelectContext(ctx, &rows, `SELECT * FROM order_rows
		WHERE ($1 = '' OR status = $1) AND ($2 = '' OR customer_id = $2) AND (placed_at, order_id) < ($3, $4)
		ORDER BY placed_at DESC, order_id DESC LIMIT $5`,
		string(q.Status), q.CustomerID, q.Before.At, q.Before.ID, q.Limit)
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
