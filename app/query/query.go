// Package query is what the service can be asked: one file a question, all of them listed here.
package query

import (
	"context"

	"github.com/millrace/millrace/app"
)

// Deps is what the handlers need.
type Deps struct {
	History History
	Orders  OrderRows
	Stock   StockRows
}

// History reads the events of an aggregate, oldest first. The error wraps app.ErrNotFound if there are none.
type History interface {
	History(ctx context.Context, category, id string) ([]app.Event, error)
}

// All lists every question.
func All(d Deps) []app.QueryHandler {
	return []app.QueryHandler{
		app.Query("OrderByID", orderByID{d.History}.handle),
		app.Query("OrderHistory", orderHistory{d.History}.handle),
		app.Query("ListOrders", listOrders{d.Orders}.handle),
		app.Query("StockBySKU", stockBySKU{d.Stock}.handle),
	}
}
