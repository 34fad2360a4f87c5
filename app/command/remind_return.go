package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// RemindReturn reminds the customer of a parcel that has not arrived. Its saga does not wait for a result.
type RemindReturn struct {
	OrderID string `json:"order_id"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c RemindReturn) Key() string { return c.OrderID }

type remindReturn struct{ orders cqrs.Store[*order.Order] }

func (h remindReturn) handle(ctx context.Context, c RemindReturn) error {
	return h.orders.Update(ctx, c.OrderID, (*order.Order).RemindReturn)
}
