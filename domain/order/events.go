package order

import (
	"encoding/json"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/kit/aggregate"
)

// Event is an event of an order.
//
//sumtype:decl
type Event interface{ order() }

// Placed says that a customer has ordered these lines for this total.
type Placed struct {
	OrderID       string      `json:"order_id"`
	CustomerID    string      `json:"customer_id"`
	Lines         []Line      `json:"lines"`
	Total         money.Money `json:"total"`
	PaymentMethod string      `json:"payment_method"`
}

// Confirmed says that the order is confirmed, which is final.
type Confirmed struct {
	OrderID string `json:"order_id"`
}

// Cancelled says that the order is cancelled, which is final; its saga has compensated all completed steps.
type Cancelled struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// ReturnRequested says that the customer returns these lines in the parcel with this number.
type ReturnRequested struct {
	OrderID      string       `json:"order_id"`
	ParcelNumber string       `json:"parcel_number"`
	Lines        []ReturnLine `json:"lines"`
	Refund       money.Money  `json:"refund"` // for the lines that are not replaced
}

// ReturnReminded says that the parcel has not arrived yet, and that the customer is reminded.
type ReturnReminded struct {
	OrderID      string `json:"order_id"`
	ParcelNumber string `json:"parcel_number"`
}

// GoodsAccepted says that the inspection accepts the returned goods. Damaged goods do not go back into stock.
type GoodsAccepted struct {
	OrderID string `json:"order_id"`
	Damaged bool   `json:"damaged"`
}

// GoodsRejected says that the inspection does not accept the returned goods.
type GoodsRejected struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// Returned says that the return is completed.
type Returned struct {
	OrderID string      `json:"order_id"`
	Refund  money.Money `json:"refund"`
}

// ReturnRejected says that the return has ended without a refund.
type ReturnRejected struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

func (Placed) order()          {}
func (Confirmed) order()       {}
func (Cancelled) order()       {}
func (ReturnRequested) order() {}
func (ReturnReminded) order()  {}
func (GoodsAccepted) order()   {}
func (GoodsRejected) order()   {}
func (Returned) order()        {}
func (ReturnRejected) order()  {}

// Types has the events by the names under which they are stored.
var Types = aggregate.TypesOf(
	aggregate.NewType[Placed]("order.placed", totalGetsCurrency),
	aggregate.NewType[Confirmed]("order.confirmed"),
	aggregate.NewType[Cancelled]("order.cancelled"),
	aggregate.NewType[ReturnRequested]("order.return-requested"),
	aggregate.NewType[ReturnReminded]("order.return-reminded"),
	aggregate.NewType[GoodsAccepted]("order.goods-accepted"),
	aggregate.NewType[GoodsRejected]("order.goods-rejected"),
	aggregate.NewType[Returned]("order.returned"),
	aggregate.NewType[ReturnRejected]("order.return-rejected"),
)

// totalGetsCurrency is the upcaster of schema version 1, in which total was a number of euro cents.
func totalGetsCurrency(fields map[string]any) error {
	amount, _ := fields["total"].(json.Number)
	fields["total"] = map[string]any{"amount": amount, "currency": "EUR"}
	return nil
}

func (o *Order) apply(e Event) {
	switch e := e.(type) {
	case Placed:
		o.id, o.customer, o.lines, o.total, o.method = e.OrderID, e.CustomerID, e.Lines, e.Total, e.PaymentMethod
		o.status = Pending
	case Confirmed:
		o.status = IsConfirmed
	case Cancelled:
		o.status, o.reason = IsCancelled, e.Reason
	case ReturnRequested:
		o.returned = Return{Status: ReturnIsRequested, ParcelNumber: e.ParcelNumber, Lines: e.Lines, Refund: e.Refund}
	case ReturnReminded, GoodsRejected:
	case GoodsAccepted:
		o.returned.Status, o.returned.Damaged = ReturnIsAccepted, e.Damaged
	case Returned:
		o.returned.Status = ReturnIsClosed
	case ReturnRejected:
		o.returned.Status, o.returned.Reason = ReturnIsRejected, e.Reason
	}
}
