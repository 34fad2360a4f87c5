package gateway

import (
	"context"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/order"
)

// Carrier is the carrier.
type Carrier struct {
	name   string
	client client
}

// NewCarrier calls the carrier of this name at a base URL. Without one it refuses every booking.
func NewCarrier(name, base string) Carrier { return Carrier{name, newClient(base)} }

// Name implements command.Carrier.
func (c Carrier) Name() string { return c.name }

type shipmentRequest struct {
	ShipmentID string       `json:"shipment_id"`
	Lines      []order.Line `json:"lines,omitempty"`
}

// Book implements command.Carrier.
func (c Carrier) Book(ctx context.Context, id string, lines []order.Line) (command.Answer, error) {
	return c.client.post(ctx, "/bookings", id, shipmentRequest{id, lines}, false)
}

// Cancel implements command.Carrier.
func (c Carrier) Cancel(ctx context.Context, id string) error {
	if c.client.base == "" {
		return nil
	}
	answer, err := c.client.post(ctx, "/cancellations", id, shipmentRequest{ShipmentID: id}, true)
	return must(answer, err, "cancel shipment "+id)
}
