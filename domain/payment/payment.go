// Package payment is the payment of one order. The provider holds the money, then the payment is captured or voided. A part of a captured payment can be
// refunded once.
package payment

import (
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/kit/aggregate"
)

// Category names the streams and topics of this aggregate.
const Category = "payments"

// Refusals of a payment.
var (
	ErrVoided     = aggregate.Refuse("the payment is voided")
	ErrCaptured   = aggregate.Refuse("the payment is captured; only a refund gives it back")
	ErrNotHeld    = aggregate.Refuse("no money is held for this payment")
	ErrMoreThan   = aggregate.Refuse("more cannot be captured than is authorised")
	ErrRefund     = aggregate.Refuse("more cannot be refunded than is captured")
	ErrNotCounted = aggregate.Refuse("a payment needs an amount above zero")
)

// Status is the status of a payment.
type Status string

// Statuses of a payment. A payment is new until the provider has answered. Voided and captured are final. A declined payment can only become voided.
const (
	New        Status = ""
	Held       Status = "held"
	IsDeclined Status = "declined"
	IsVoided   Status = "voided"
	IsCaptured Status = "captured"
)

// Payment is the aggregate of a payment. Its rules: it captures at most the authorised amount; it is refunded once, with at most the captured amount; a final
// status does not change, except that a declined payment can be voided.
type Payment struct {
	aggregate.Root[Event]
	status     Status
	authorised money.Money
	captured   int64
	refunded   int64
}

// Rebuild rebuilds a Payment from its history.
func Rebuild(history []Event) *Payment {
	p := &Payment{}
	p.Replay(p.apply, history)
	return p
}

// Status is the current status.
func (p *Payment) Status() Status { return p.status }

// AuthorisedAmount is the amount that the provider has authorised, in minor units.
func (p *Payment) AuthorisedAmount() int64 { return p.authorised.Amount }

// CapturedAmount is the amount that was captured, in minor units.
func (p *Payment) CapturedAmount() int64 { return p.captured }

// RefundedAmount is the amount that was refunded, in minor units.
func (p *Payment) RefundedAmount() int64 { return p.refunded }

// Authorise records that the provider holds amount. Repeating it changes nothing. Errors are ErrNotCounted, or ErrVoided for a declined or voided
// payment.
func (p *Payment) Authorise(id, orderID string, amount money.Money, reference string) error {
	switch p.status {
	case New:
		if amount.Amount < 1 {
			return ErrNotCounted
		}
		p.Record(p.apply, Authorised{id, orderID, amount, reference})
		return nil
	case Held, IsCaptured:
		return nil
	case IsDeclined, IsVoided:
	}
	return ErrVoided
}

// Decline records that the provider has refused to hold the money. Repeating it changes nothing. The error is ErrVoided if the provider has given another
// answer.
func (p *Payment) Decline(id, orderID, reason string) error {
	switch p.status {
	case New:
		p.Record(p.apply, Declined{id, orderID, reason})
		return nil
	case IsDeclined:
		return nil
	case Held, IsVoided, IsCaptured:
	}
	return ErrVoided
}

// Void records that the provider does not hold the money any more. Voiding a payment that was never authorised succeeds, and makes a later authorisation
// fail. The error is ErrCaptured.
func (p *Payment) Void(id, orderID string) error {
	switch p.status {
	case New, Held, IsDeclined, IsVoided:
		var held int64
		if p.status == Held {
			held = p.authorised.Amount
		}
		p.Record(p.apply, Voided{id, orderID, held})
		return nil
	case IsCaptured:
	}
	return ErrCaptured
}

// Capture records that amount was captured. Repeating it changes nothing. Errors are ErrMoreThan or ErrNotHeld.
func (p *Payment) Capture(id, orderID string, amount money.Money) error {
	switch p.status {
	case Held:
		if amount.Currency != p.authorised.Currency || amount.Amount > p.authorised.Amount {
			return ErrMoreThan
		}
		p.Record(p.apply, Captured{id, orderID, amount})
		return nil
	case IsCaptured:
		return nil
	case New, IsDeclined, IsVoided:
	}
	return ErrNotHeld
}

// RefuseCapture records that the provider has refused the capture. The authorisation must still be voided. The error is ErrCaptured.
func (p *Payment) RefuseCapture(id, orderID, reason string) error {
	if p.status == IsCaptured {
		return ErrCaptured
	}
	p.Record(p.apply, CaptureRefused{id, orderID, reason})
	return nil
}

// Refund records that amount was refunded. Repeating it changes nothing. Errors are ErrNotCounted or ErrRefund.
func (p *Payment) Refund(id, orderID string, amount money.Money, reference string) error {
	switch {
	case amount.Amount < 1:
		return ErrNotCounted
	case amount.Currency != p.authorised.Currency || amount.Amount > p.captured:
		return ErrRefund
	case p.refunded == 0:
		p.Record(p.apply, Refunded{id, orderID, amount, reference})
	}
	return nil
}

// RefuseRefund records that the provider has refused the refund. It does nothing after a refund.
func (p *Payment) RefuseRefund(id, orderID, reason string) error {
	if p.refunded == 0 {
		p.Record(p.apply, RefundRefused{id, orderID, reason})
	}
	return nil
}
