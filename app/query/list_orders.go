package query

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ListOrders lists orders, newest first. The result may lag behind by as long as the projection takes.
type ListOrders struct {
	cqrs.Result[[]Order]
	Status     order.Status // empty: all
	CustomerID string       // empty: everybody's
	Search     string       // the id of an order or of a customer; empty: all
	cqrs.Page
}

// OrderRows is the read model of orders.
type OrderRows interface {
	List(ctx context.Context, q ListOrders) ([]Order, error)
}
