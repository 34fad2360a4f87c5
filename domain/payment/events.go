package payment

import (
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/kit/aggregate"
)

// Event is a fact about the payment of an order.
//
//sumtype:decl
type Event interface{ payment() }

// Authorised says that the provider holds the money for us.
type Authorised struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
	Reference string      `json:"reference"` // the provider's
}

// Declined says that the provider will not hold the money.
type Declined struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Reason    string `json:"reason"`
}

// Voided says that nothing is held any more. Amount 0: nothing was.
type Voided struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Amount    int64  `json:"amount"`
}

// Captured says that the money is ours.
type Captured struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
}

// CaptureRefused says that the provider will not hand the money over.
type CaptureRefused struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
	Reason    string `json:"reason"`
}

func (Authorised) payment()     {}
func (Declined) payment()       {}
func (Voided) payment()         {}
func (Captured) payment()       {}
func (CaptureRefused) payment() {}

// Types names the facts as they are stored.
var Types = aggregate.TypesOf(
	aggregate.NewType[Authorised]("payment.authorised"),
	aggregate.NewType[Declined]("payment.declined"),
	aggregate.NewType[Voided]("payment.voided"),
	aggregate.NewType[Captured]("payment.captured"),
	aggregate.NewType[CaptureRefused]("payment.capture-refused"),
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
	case CaptureRefused:
	}
}
