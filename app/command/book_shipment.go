package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
)

// Carrier delivers goods to customers. Every call has the id of the shipment, so that it takes effect once, however often it is repeated. Errors wrap
// cqrs.ErrUnavailable; a refusal is a result, not an error.
type Carrier interface {
	Name() string
	Book(ctx context.Context, shipmentID string, lines []order.Line) (cqrs.CallResult, error)
	Cancel(ctx context.Context, shipmentID string) error
}

// BookShipment books a shipment with the carrier.
type BookShipment struct {
	ShipmentID string       `json:"shipment_id"`
	OrderID    string       `json:"order_id"`
	Lines      []order.Line `json:"lines"`
}

// Key is the id of the shipment: commands of one shipment are handled in order.
func (c BookShipment) Key() string { return c.ShipmentID }

type bookShipment struct {
	shipments cqrs.Store[*shipment.Shipment]
	carrier   Carrier
}

func (h bookShipment) call(ctx context.Context, c BookShipment) (cqrs.CallResult, error) {
	return h.carrier.Book(ctx, c.ShipmentID, c.Lines)
}

func (h bookShipment) record(ctx context.Context, c BookShipment, a cqrs.CallResult) error {
	return h.shipments.Update(ctx, c.ShipmentID, func(s *shipment.Shipment) error {
		if a.Refused != "" {
			return s.Refuse(c.ShipmentID, c.OrderID, a.Refused)
		}
		return s.Book(c.ShipmentID, c.OrderID, h.carrier.Name(), a.Reference)
	})
}
