package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// CloseReturn closes an accepted return. It is the last command of a completed saga.
type CloseReturn struct {
	OrderID string `json:"order_id"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c CloseReturn) Key() string { return c.OrderID }

type closeReturn struct{ orders cqrs.Store[*order.Order] }

func (h closeReturn) handle(ctx context.Context, c CloseReturn) error {
	return h.orders.Update(ctx, c.OrderID, (*order.Order).CloseReturn)
}
