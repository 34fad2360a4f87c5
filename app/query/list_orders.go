package query

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ListOrders lists orders, newest first. The result lags behind the events by the time that the projection needs.
type ListOrders struct {
	cqrs.Result[[]Order]
	Status     order.Status // empty: orders of every status
	CustomerID string       // empty: orders of all customers
	Search     string       // the id of an order or of a customer; empty: all orders
	cqrs.Page
}

// OrderRows is the read model of orders.
type OrderRows interface {
	List(ctx context.Context, q ListOrders) ([]Order, error)
}
