package consumer

import (
	"context"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/kit/cqrs"
)

// DeliveryArrived has the fields of the warehouse's delivery.arrived that this service uses.
type DeliveryArrived struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// deliveries books deliveries of the warehouse into stock.
type deliveries struct{ commands cqrs.Commands }

func (r deliveries) consumer() cqrs.EventConsumer {
	return cqrs.EventConsumer{Name: "deliveries", From: "warehouse", Category: "deliveries", On: []cqrs.ExternalHandler{
		cqrs.OnExternal("delivery.arrived", r.arrived),
	}}
}

func (r deliveries) arrived(ctx context.Context, e DeliveryArrived, _ cqrs.Meta) error {
	return r.commands.Send(ctx, cqrs.Command{Body: command.ReceiveStock{SKU: e.SKU, Quantity: e.Quantity}})
}
