// Package query has the queries of the service: one file per query, all listed here.
package query

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
)

// Deps is what the handlers need.
type Deps struct {
	History History
	Orders  OrderRows
	Stock   StockRows
}

// History reads the events of an aggregate, oldest first. The error wraps cqrs.ErrNotFound if there are none.
type History interface {
	History(ctx context.Context, category, id string) ([]cqrs.Event, error)
}

// All lists every query.
func All(d Deps) []cqrs.QueryHandler {
	return []cqrs.QueryHandler{
		cqrs.HandleQuery("OrderByID", orderByID{d.History}.handle),
		cqrs.HandleQuery("OrderHistory", orderHistory{d.History}.handle),
		cqrs.HandleQuery("ListOrders", listOrders{d.Orders}.handle),
		cqrs.HandleQuery("StockBySKU", stockBySKU{d.Stock}.handle),
	}
}
