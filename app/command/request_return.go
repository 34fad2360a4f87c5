package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// RequestReturn requests the return of a confirmed order.
type RequestReturn struct {
	OrderID string             `json:"order_id"`
	Lines   []order.ReturnLine `json:"lines"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c RequestReturn) Key() string { return c.OrderID }

type requestReturn struct{ orders cqrs.Store[*order.Order] }

func (h requestReturn) handle(ctx context.Context, c RequestReturn) error {
	return h.orders.Update(ctx, c.OrderID, func(o *order.Order) error { return o.RequestReturn(c.Lines) })
}
