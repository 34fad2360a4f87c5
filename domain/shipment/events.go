package shipment

import "github.com/millrace/millrace/kit/aggregate"

// Event is an event of the shipment of an order.
//
//sumtype:decl
type Event interface{ shipment() }

// Booked says that the carrier has accepted the shipment.
type Booked struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
	Carrier    string `json:"carrier"`
	Tracking   string `json:"tracking"`
}

// Refused says that the carrier has refused the shipment.
type Refused struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
	Reason     string `json:"reason"`
}

// Cancelled says that the booking was cancelled. If there was no booking, none will be accepted later.
type Cancelled struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
}

func (Booked) shipment()    {}
func (Refused) shipment()   {}
func (Cancelled) shipment() {}

// Types has the events by the names under which they are stored.
var Types = aggregate.TypesOf(
	aggregate.NewType[Booked]("shipment.booked"),
	aggregate.NewType[Refused]("shipment.refused"),
	aggregate.NewType[Cancelled]("shipment.cancelled"),
)

func (s *Shipment) apply(e Event) {
	switch e.(type) {
	case Booked:
		s.status = IsBooked
	case Refused:
		s.status = IsRefused
	case Cancelled:
		s.status = IsCancelled
	}
}
