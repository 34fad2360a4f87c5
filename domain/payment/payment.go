// Package payment is the payment of one order: held by the provider, then captured or voided. A part of a captured payment can be refunded once.
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

// A payment is new until the provider has answered. Declined, voided and captured are final.
const (
	New        Status = ""
	Held       Status = "held"
	IsDeclined Status = "declined"
	IsVoided   Status = "voided"
	IsCaptured Status = "captured"
)

// Payment is the aggregate. Rules: never captured more than authorised; refunded once, never more than captured; no way out of a final status, except that voiding
// may be repeated.
type Payment struct {
	aggregate.Root[Event]
	status     Status
	authorised money.Money
	captured   int64
	refunded   int64
}

// Rebuild folds a history.
func Rebuild(history []Event) *Payment {
	p := &Payment{}
	p.Replay(p.apply, history)
	return p
}

// Status is where it stands.
func (p *Payment) Status() Status { return p.status }

// AuthorisedAmount is what the provider held at first.
func (p *Payment) AuthorisedAmount() int64 { return p.authorised.Amount }

// CapturedAmount is what became ours, in minor units.
func (p *Payment) CapturedAmount() int64 { return p.captured }

// RefundedAmount is what was given back, in minor units.
func (p *Payment) RefundedAmount() int64 { return p.refunded }

// Authorise records that the provider holds amount. Repeating it changes nothing.
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

// Decline records that the provider has refused to hold the money.
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

// Void records that no money is held any more. Voiding a payment that was never authorised succeeds, and rejects a later authorisation.
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

// Capture records that amount was captured. Repeating it changes nothing.
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

// RefuseCapture records that the provider has refused the capture; the authorisation must still be voided.
func (p *Payment) RefuseCapture(id, orderID, reason string) error {
	if p.status == IsCaptured {
		return ErrCaptured
	}
	p.Record(p.apply, CaptureRefused{id, orderID, reason})
	return nil
}

// Refund records that amount was given back. Repeating it changes nothing.
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

// RefuseRefund records that the provider has refused the refund.
func (p *Payment) RefuseRefund(id, orderID, reason string) error {
	if p.refunded == 0 {
		p.Record(p.apply, RefundRefused{id, orderID, reason})
	}
	return nil
}
