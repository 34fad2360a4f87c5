package command

import (
	"context"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/cqrs"
)

// Provider is the payment provider. Every call has the id of the payment, so that it takes effect once, however often it is repeated. Errors wrap
// cqrs.ErrUnavailable; a refusal is a result, not an error.
type Provider interface {
	Authorise(ctx context.Context, paymentID string, amount money.Money, method string) (cqrs.CallResult, error)
	Capture(ctx context.Context, paymentID string, amount money.Money) (cqrs.CallResult, error)
	Void(ctx context.Context, paymentID string) error
	Refund(ctx context.Context, paymentID string, amount money.Money) (cqrs.CallResult, error)
}

// AuthorisePayment makes the provider hold an order's total.
type AuthorisePayment struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
	Method    string      `json:"method"`
}

// Key is the id of the payment: commands of one payment are handled in order.
func (c AuthorisePayment) Key() string { return c.PaymentID }

type authorisePayment struct {
	payments cqrs.Store[*payment.Payment]
	provider Provider
}

func (h authorisePayment) call(ctx context.Context, c AuthorisePayment) (cqrs.CallResult, error) {
	return h.provider.Authorise(ctx, c.PaymentID, c.Amount, c.Method)
}

func (h authorisePayment) record(ctx context.Context, c AuthorisePayment, a cqrs.CallResult) error {
	return h.payments.Update(ctx, c.PaymentID, func(p *payment.Payment) error {
		if a.Refused != "" {
			return p.Decline(c.PaymentID, c.OrderID, a.Refused)
		}
		return p.Authorise(c.PaymentID, c.OrderID, c.Amount, a.Reference)
	})
}
