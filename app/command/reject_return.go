package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// RejectReturn rejects a return. It is the last command of a compensated saga.
type RejectReturn struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c RejectReturn) Key() string { return c.OrderID }

type rejectReturn struct{ orders cqrs.Store[*order.Order] }

func (h rejectReturn) handle(ctx context.Context, c RejectReturn) error {
	return h.orders.Update(ctx, c.OrderID, func(o *order.Order) error { return o.RejectReturn(c.Reason) })
}
