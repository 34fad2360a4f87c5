package views

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/postgres/readmodel"
)

// Orders is the read model of orders.
type Orders struct{ db *sqlx.DB }

// NewOrders makes an Orders.
func NewOrders(db *sqlx.DB) Orders { return Orders{db} }

// orderRow is a row of the table.
type orderRow struct {
	OrderID    string
	CustomerID string
	Status     order.Status
	Reason     string
	Lines      readmodel.JSON[[]order.Line]
	Total      int64
	Currency   string
	PlacedAt   time.Time
	UpdatedAt  time.Time
	Version    int
}

var orders = readmodel.NewTable[orderRow]("order_view")

// Put implements projection.OrderRows.
func (r Orders) Put(ctx context.Context, o query.Order) error {
	return orders.Put(ctx, orderRow{
		o.ID, o.CustomerID, o.Status, o.Reason, readmodel.JSON[[]order.Line]{V: o.Lines}, o.Total.Amount, o.Total.Currency, o.PlacedAt, o.UpdatedAt, o.Version,
	})
}

// Decide implements projection.OrderRows.
func (r Orders) Decide(ctx context.Context, o query.Order) error {
	row := orderRow{OrderID: o.ID, Status: o.Status, Reason: o.Reason, UpdatedAt: o.UpdatedAt, Version: o.Version}
	return orders.Update(ctx, row, "status", "reason", "updated_at")
}

// Count counts the orders of each status, at most atMost of each, so that it does not get slower with the history.
func (r Orders) Count(ctx context.Context, atMost int) (map[order.Status]int, error) {
	return readmodel.CountByStatus(ctx, r.db, "order_view", atMost, order.Pending, order.IsConfirmed, order.IsCancelled)
}

// List implements query.OrderRows.
func (r Orders) List(ctx context.Context, q query.ListOrders) ([]query.Order, error) {
	rows, err := readmodel.Select[orderRow](ctx, r.db, "orders", `SELECT * FROM order_view
		WHERE ($1 = '' OR status = $1) AND ($2 = '' OR customer_id = $2) AND (placed_at, order_id) < ($3, $4)
			AND ($6 = '' OR order_id = $6 OR customer_id = $6)
		ORDER BY placed_at DESC, order_id DESC LIMIT $5`,
		string(q.Status), q.CustomerID, q.Before.At, q.Before.ID, q.Limit, q.Search)
	found := make([]query.Order, len(rows))
	for i, o := range rows {
		found[i] = query.Order{
			ID: o.OrderID, CustomerID: o.CustomerID, Status: o.Status, Reason: o.Reason, Lines: o.Lines.V, Total: money.Money{Amount: o.Total, Currency: o.Currency},
			PlacedAt: o.PlacedAt.UTC(), UpdatedAt: o.UpdatedAt.UTC(), Version: o.Version,
		}
	}
	return found, err
}
