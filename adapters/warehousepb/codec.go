package warehousepb

import (
	"github.com/millrace/millrace/app/consumer"
	"github.com/millrace/millrace/kit/messaging"
)

// DeliveryArrivedCodec reads the warehouse's delivery.arrived, which may come as Protocol Buffers too.
var DeliveryArrivedCodec = messaging.Protobuf("delivery.arrived",
	func(e consumer.DeliveryArrived) *DeliveryArrived {
		return &DeliveryArrived{Sku: e.SKU, Quantity: e.Quantity}
	},
	func(p *DeliveryArrived) consumer.DeliveryArrived {
		return consumer.DeliveryArrived{SKU: p.GetSku(), Quantity: p.GetQuantity()}
	})
