package warehousepb

import (
	"github.com/millrace/millrace/app/consumer"
	"github.com/millrace/millrace/kit/messaging"
)

// DeliveryArrivedCodec decodes the warehouse's delivery.arrived, which may be encoded as Protocol Buffers instead of JSON.
var DeliveryArrivedCodec = messaging.Protobuf("delivery.arrived",
	func(e consumer.DeliveryArrived) *DeliveryArrived {
		return &DeliveryArrived{Sku: e.SKU, Quantity: e.Quantity}
	},
	func(p *DeliveryArrived) consumer.DeliveryArrived {
		return consumer.DeliveryArrived{SKU: p.GetSku(), Quantity: p.GetQuantity()}
	})
