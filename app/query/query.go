// Package query has the queries of the service: one file per query, all listed here.
package query

import "github.com/millrace/millrace/kit/cqrs"

// Deps is what the handlers need.
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
