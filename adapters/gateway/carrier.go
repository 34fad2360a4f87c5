package gateway

import (
	"context"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpclient"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/kit/sandbox"
)

// CarrierService and CourierService register the carrier, and the courier that replaces the carrier when the carrier cannot deliver.
var (
	CarrierService = runner.Gateway{Name: "carrier", Destination: shipment.Category, StandIn: func() *sandbox.Service { return carrierStandIn("carrier") }}
	CourierService = runner.Gateway{Name: "courier", Destination: command.Couriers, StandIn: func() *sandbox.Service { return carrierStandIn("courier") }, Optional: true}
)

// Carrier is the client of a carrier. It implements command.Carrier.
type Carrier struct {
	name   string
	client httpclient.Client
}

// NewCarrier makes the client of the carrier with this name at a base URL. Without a URL the client refuses every booking.
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

// carrierStandIn is the stand-in of a carrier. It refuses the SKU HEAVY-99.
func carrierStandIn(name string) *sandbox.Service {
	return sandbox.New(name, func(r shipmentRequest) string { return r.ShipmentID }, []string{"booked", "cancelled"},
		sandbox.Operation[shipmentRequest]{
			Name: "book", Path: "/bookings", Reference: "track-", Refusal: "the " + name + " has no room", Barred: "cancelled",
			Decide: func(r shipmentRequest, _ sandbox.Effects) (d sandbox.Decision) {
				for _, line := range r.Lines {
					if line.SKU == "HEAVY-99" {
						d.Refused = "too heavy for the " + name
					}
				}
				return d
			},
			Count: func(l sandbox.Ledger, _ int64, _ sandbox.Effects) { l["booked"]++ },
		},
		sandbox.Operation[shipmentRequest]{
			Name: "cancel", Path: "/cancellations", Reference: "cancel-", Undoes: "book",
			Count: func(l sandbox.Ledger, _ int64, _ sandbox.Effects) { l["cancelled"]++ },
		},
	)
}
