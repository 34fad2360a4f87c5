package inventory

import "github.com/millrace/millrace/kit/aggregate"

// Event is an event of the stock of a SKU.
//
//sumtype:decl
type Event interface{ inventory() }

// Received says that goods have arrived.
type Received struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Reserved says that a quantity is reserved for an order.
type Reserved struct {
	SKU      string `json:"sku"`
	OrderID  string `json:"order_id"`
	Quantity int64  `json:"quantity"`
}

// Rejected says that the stock does not suffice for an order.
type Rejected struct {
	SKU       string `json:"sku"`
	OrderID   string `json:"order_id"`
	Wanted    int64  `json:"wanted"`
	Available int64  `json:"available"`
	Reason    string `json:"reason"`
}

// Released says that a reservation was released. Quantity 0 means that there was no reservation.
type Released struct {
	SKU      string `json:"sku"`
	OrderID  string `json:"order_id"`
	Quantity int64  `json:"quantity"`
}

// Committed says that reserved goods were shipped.
type Committed struct {
	SKU      string `json:"sku"`
	OrderID  string `json:"order_id"`
	Quantity int64  `json:"quantity"`
}

// PutBack says that goods of a returned order are in stock again.
type PutBack struct {
	SKU      string `json:"sku"`
	OrderID  string `json:"order_id"`
	Quantity int64  `json:"quantity"`
}

func (Received) inventory()  {}
func (Reserved) inventory()  {}
func (Rejected) inventory()  {}
func (Released) inventory()  {}
func (Committed) inventory() {}
func (PutBack) inventory()   {}

// Types has the events by the names under which they are stored.
var Types = aggregate.TypesOf(
	aggregate.NewType[Received]("inventory.received"),
	aggregate.NewType[Reserved]("inventory.reserved"),
	aggregate.NewType[Rejected]("inventory.rejected"),
	aggregate.NewType[Released]("inventory.released"),
	aggregate.NewType[Committed]("inventory.committed"),
	aggregate.NewType[PutBack]("inventory.put-back"),
)

func (s *Stock) apply(e Event) {
	switch e := e.(type) {
	case Received:
		s.state.Known = true
		s.state.OnHand += e.Quantity
	case PutBack:
		s.state.OnHand += e.Quantity
	case Reserved:
		s.state.Reserved += e.Quantity
		s.state.Reservations[e.OrderID] = e.Quantity
	case Rejected:
	case Released:
		s.state.Reserved -= e.Quantity
		delete(s.state.Reservations, e.OrderID)
	case Committed:
		s.state.Reserved -= e.Quantity
		s.state.OnHand -= e.Quantity
		delete(s.state.Reservations, e.OrderID)
	}
}
