package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// PlaceOrder places an order. The caller chooses the id of the order, so that a repeated command does not place two orders.
type PlaceOrder struct {
	OrderID       string       `json:"order_id"`
	CustomerID    string       `json:"customer_id"`
	Lines         []order.Line `json:"lines"`
	Currency      string       `json:"currency"`
	PaymentMethod string       `json:"payment_method"`
}

// Key is the id of the order: commands of one order are handled in order.
func (c PlaceOrder) Key() string { return c.OrderID }

type placeOrder struct{ orders cqrs.Store[*order.Order] }

func (h placeOrder) handle(ctx context.Context, c PlaceOrder) error {
	return h.orders.Update(ctx, c.OrderID, func(o *order.Order) error {
		return o.Place(c.OrderID, c.CustomerID, c.Currency, c.PaymentMethod, c.Lines)
	})
}
