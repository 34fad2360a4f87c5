package reaction

import (
	"context"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/command"
)

// DeliveryArrived is as much of the warehouse's delivery.arrived as matters here.
type DeliveryArrived struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// deliveries takes into stock what the warehouse says has arrived.
type deliveries struct{ commands app.Commands }

func (r deliveries) reaction() app.Reaction {
	return app.Reaction{Name: "deliveries", From: "warehouse", Category: "deliveries", On: []app.Hearing{
		app.Hear("delivery.arrived", r.arrived),
	}}
}

func (r deliveries) arrived(ctx context.Context, e DeliveryArrived, _ app.Meta) error {
	return r.commands.Send(ctx, app.Command{Body: command.ReceiveStock{SKU: e.SKU, Quantity: e.Quantity}})
}
