package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ConfirmOrder confirms a pending order. It is the last command of a completed saga.
type ConfirmOrder struct {
	OrderID string `json:"order_id"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c ConfirmOrder) Key() string { return c.OrderID }

type confirmOrder struct{ orders cqrs.Store[*order.Order] }

func (h confirmOrder) handle(ctx context.Context, c ConfirmOrder) error {
	return h.orders.Update(ctx, c.OrderID, (*order.Order).Confirm)
}
