// Package query has the queries of the service: one file per query. All lists them.
package query

import "github.com/millrace/millrace/kit/cqrs"

// Deps has the dependencies of the handlers.
type Deps struct {
	History cqrs.History
	Orders  OrderRows
	Stock   StockRows
}

// All lists every query.
func All(d Deps) []cqrs.QueryHandler {
	return []cqrs.QueryHandler{
		cqrs.HandleQuery("OrderByID", orderByID{d.History}.handle),
		cqrs.HandleQuery("OrderHistory", orderHistory{d.History}.handle),
		cqrs.HandleQuery("ListOrders", d.Orders.List),
		cqrs.HandleQuery("StockBySKU", d.Stock.BySKU),
	}
}
