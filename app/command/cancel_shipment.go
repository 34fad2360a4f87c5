package command

import (
	"context"

	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
)

// CancelShipment compensates BookShipment.
type CancelShipment struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
}

// Key is the id of the shipment: commands of one shipment are handled in order.
func (c CancelShipment) Key() string { return c.ShipmentID }

type cancelShipment struct {
	shipments cqrs.Store[*shipment.Shipment]
	carrier   Carrier
}

func (h cancelShipment) call(ctx context.Context, c CancelShipment) (struct{}, error) {
	return struct{}{}, h.carrier.Cancel(ctx, c.ShipmentID)
}

func (h cancelShipment) record(ctx context.Context, c CancelShipment, _ struct{}) error {
	return h.shipments.Update(ctx, c.ShipmentID, func(s *shipment.Shipment) error {
		return s.Cancel(c.ShipmentID, c.OrderID)
	})
}
