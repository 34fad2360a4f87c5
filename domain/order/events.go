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

// Confirmed completes the order.
type Confirmed struct {
	OrderID string `json:"order_id"`
}

// Cancelled ends the order; the saga compensates everything that was done for it.
type Cancelled struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

func (Placed) order()    {}
func (Confirmed) order() {}
func (Cancelled) order() {}

// Types has the events by the names under which they are stored.
var Types = aggregate.TypesOf(
	aggregate.NewType[Placed]("order.placed", totalGetsCurrency),
	aggregate.NewType[Confirmed]("order.confirmed"),
	aggregate.NewType[Cancelled]("order.cancelled"),
)

// totalGetsCurrency upcasts schema version 1, in which total was a number of euro cents.
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
	}
}
