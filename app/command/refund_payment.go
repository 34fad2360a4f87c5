package command

import (
	"context"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/cqrs"
)

// RefundPayment makes the provider refund a part of the captured money.
type RefundPayment struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
}

// Key is the id of the payment: commands of one payment are handled in order.
func (c RefundPayment) Key() string { return c.PaymentID }

type refundPayment struct {
	payments cqrs.Store[*payment.Payment]
	provider Provider
}

func (h refundPayment) call(ctx context.Context, c RefundPayment) (cqrs.CallResult, error) {
	return h.provider.Refund(ctx, c.PaymentID, c.Amount)
}

func (h refundPayment) record(ctx context.Context, c RefundPayment, a cqrs.CallResult) error {
	return h.payments.Update(ctx, c.PaymentID, func(p *payment.Payment) error {
		if a.Refused != "" {
			return p.RefuseRefund(c.PaymentID, c.OrderID, a.Refused)
		}
		return p.Refund(c.PaymentID, c.OrderID, c.Amount, a.Reference)
	})
}
