package payment

import (
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/kit/aggregate"
)

// Event is an event of the payment of an order.
//
//sumtype:decl
type Event interface{ payment() }

// Authorised says that the provider holds the money.
type Authorised struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
	Reference string      `json:"reference"` // the provider's reference
}

// Declined says that the provider has refused to hold the money.
type Declined struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Reason    string `json:"reason"`
}

// Voided says that the provider does not hold the money any more. Amount 0 means that it held none.
type Voided struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Amount    int64  `json:"amount"`
}

// Captured says that the provider has transferred the money.
type Captured struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
}

// CaptureRefused says that the provider has refused to transfer the money.
type CaptureRefused struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Reason    string `json:"reason"`
}

// Refunded says that the provider has refunded money.
type Refunded struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
	Reference string      `json:"reference"` // the provider's reference
}

// RefundRefused says that the provider has refused to refund money.
type RefundRefused struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Reason    string `json:"reason"`
}

func (Authorised) payment()     {}
func (Declined) payment()       {}
func (Voided) payment()         {}
func (Captured) payment()       {}
func (CaptureRefused) payment() {}
func (Refunded) payment()       {}
func (RefundRefused) payment()  {}

// Types has the events by the names under which they are stored.
var Types = aggregate.TypesOf(
	aggregate.NewType[Authorised]("payment.authorised"),
	aggregate.NewType[Declined]("payment.declined"),
	aggregate.NewType[Voided]("payment.voided"),
	aggregate.NewType[Captured]("payment.captured"),
	aggregate.NewType[CaptureRefused]("payment.capture-refused"),
	aggregate.NewType[Refunded]("payment.refunded"),
	aggregate.NewType[RefundRefused]("payment.refund-refused"),
)

func (p *Payment) apply(e Event) {
	switch e := e.(type) {
	case Authorised:
		p.status, p.authorised = Held, e.Amount
	case Declined:
		p.status = IsDeclined
	case Voided:
		p.status = IsVoided
	case Captured:
		p.status, p.captured = IsCaptured, e.Amount.Amount
	case Refunded:
		p.refunded = e.Amount.Amount
	case CaptureRefused, RefundRefused:
	}
}
