package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// CancelOrder cancels a pending order. It is the last command of a compensated saga.
type CancelOrder struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c CancelOrder) Key() string { return c.OrderID }

type cancelOrder struct{ orders cqrs.Store[*order.Order] }

func (h cancelOrder) handle(ctx context.Context, c CancelOrder) error {
	return h.orders.Update(ctx, c.OrderID, func(o *order.Order) error { return o.Cancel(c.Reason) })
}
