package query

import (
	"context"
	"time"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// Order is an order in the form that queries return.
type Order struct {
	ID         string
	CustomerID string
	Status     order.Status
	Reason     string
	Lines      []order.Line
	Total      money.Money
	Return     order.Return // set only by OrderByID
	PlacedAt   time.Time
	UpdatedAt  time.Time
	Version    int
}

// OrderByID reads one order. The result is computed from the events, so it is never older than an earlier response to a client.
type OrderByID struct {
	cqrs.Result[Order]
	ID string
}

type orderByID struct{ history cqrs.History }

func (h orderByID) handle(ctx context.Context, q OrderByID) (Order, error) {
	events, err := h.history.History(ctx, order.Category, q.ID)
	if err != nil {
		return Order{}, err
	}
	o := order.Rebuild(cqrs.Bodies[order.Event](events))
	return Order{
		ID: o.ID(), CustomerID: o.Customer(), Status: o.Status(), Reason: o.Reason(), Lines: o.Lines(), Total: o.Total(), Return: o.Return(),
		PlacedAt: events[0].Meta.Time, UpdatedAt: events[len(events)-1].Meta.Time, Version: o.Version(),
	}, nil
}
