package shipment

import "github.com/millrace/millrace/kit/aggregate"

// Event is a fact about the shipment of an order.
//
//sumtype:decl
type Event interface{ shipment() }

// Booked says that the carrier will come.
type Booked struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
	Carrier    string `json:"carrier"`
	Tracking   string `json:"tracking"`
}

// Refused says that the carrier will not take it.
type Refused struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
	Reason     string `json:"reason"`
}

// Cancelled says that nobody will come, or that nobody would have.
type Cancelled struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
}

func (Booked) shipment()    {}
func (Refused) shipment()   {}
func (Cancelled) shipment() {}

// Types names the facts as they are stored.
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
