package projection

import (
	"context"

	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// OrderRows stores the read model of orders.
type OrderRows interface {
	// Put adds an order, unless the order is already there.
	Put(ctx context.Context, o query.Order) error

	// Decide sets the final status of an order, unless version was already applied.
	Decide(ctx context.Context, o query.Order) error
}

type orders struct{ rows OrderRows }

// Orders is the projection that builds the read model of orders.
func Orders(rows OrderRows) cqrs.Projection {
	p := orders{rows}
	return cqrs.Projection{Name: "orders", Category: order.Category, On: []cqrs.EventHandler{
		cqrs.On(p.placed), cqrs.On(p.confirmed), cqrs.On(p.cancelled),
	}}
}

func (p orders) placed(ctx context.Context, e order.Placed, m cqrs.Meta) error {
	return p.rows.Put(ctx, query.Order{
		ID: e.OrderID, CustomerID: e.CustomerID, Status: order.Pending, Lines: e.Lines, Total: e.Total,
		PlacedAt: m.Time, UpdatedAt: m.Time, Version: m.Version,
	})
}

func (p orders) confirmed(ctx context.Context, e order.Confirmed, m cqrs.Meta) error {
	return p.rows.Decide(ctx, query.Order{ID: e.OrderID, Status: order.IsConfirmed, UpdatedAt: m.Time, Version: m.Version})
}

func (p orders) cancelled(ctx context.Context, e order.Cancelled, m cqrs.Meta) error {
	return p.rows.Decide(ctx, query.Order{
		ID: e.OrderID, Status: order.IsCancelled, Reason: e.Reason, UpdatedAt: m.Time, Version: m.Version,
	})
}
