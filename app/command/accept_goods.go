package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// AcceptGoods applies the result of an inspection: the goods are accepted, or rejected for a reason.
type AcceptGoods struct {
	OrderID  string `json:"order_id"`
	Damaged  bool   `json:"damaged"`
	Rejected string `json:"rejected,omitempty"` // the reason of a rejection; empty: the goods are accepted
}

// Key is the id of the order: commands of one order are handled in order.
func (c AcceptGoods) Key() string { return c.OrderID }

type acceptGoods struct{ orders cqrs.Store[*order.Order] }

func (h acceptGoods) handle(ctx context.Context, c AcceptGoods) error {
	return h.orders.Update(ctx, c.OrderID, func(o *order.Order) error {
		if c.Rejected != "" {
			return o.RejectGoods(c.Rejected)
		}
		return o.AcceptGoods(c.Damaged)
	})
}
