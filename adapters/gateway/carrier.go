package gateway

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpclient"

	"github.com/millrace/millrace/domain/order"
)

// Carrier is the carrier.
type Carrier struct {
	name   string
	client httpclient.Client
}

// NewCarrier makes the client of a carrier with this name at a base URL. Without a URL it refuses every booking.
func NewCarrier(name, base string) Carrier { return Carrier{name, httpclient.New(base)} }

// Name implements command.Carrier.
func (c Carrier) Name() string { return c.name }

type shipmentRequest struct {
	ShipmentID string       `json:"shipment_id"`
	Lines      []order.Line `json:"lines,omitempty"`
}

// Book implements command.Carrier.
func (c Carrier) Book(ctx context.Context, id string, lines []order.Line) (cqrs.CallResult, error) {
	return c.client.Post(ctx, "/bookings", id, shipmentRequest{id, lines}, false)
}

// Cancel implements command.Carrier.
func (c Carrier) Cancel(ctx context.Context, id string) error {
	if c.client.None() {
		return nil
	}
	answer, err := c.client.Post(ctx, "/cancellations", id, shipmentRequest{ShipmentID: id}, true)
	return httpclient.Accepted(answer, err, "cancel shipment "+id)
}
