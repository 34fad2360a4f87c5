package command

import (
	"context"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/cqrs"
)

// CapturePayment makes the provider transfer the authorised money.
type CapturePayment struct {
	PaymentID string      `json:"payment_id"`
	OrderID   string      `json:"order_id"`
	Amount    money.Money `json:"amount"`
}

// Key is the id of the payment: commands of one payment are handled in order.
func (c CapturePayment) Key() string { return c.PaymentID }

type capturePayment struct {
	payments cqrs.Store[*payment.Payment]
	provider Provider
}

func (h capturePayment) call(ctx context.Context, c CapturePayment) (cqrs.CallResult, error) {
	return h.provider.Capture(ctx, c.PaymentID, c.Amount)
}

func (h capturePayment) record(ctx context.Context, c CapturePayment, a cqrs.CallResult) error {
	return h.payments.Update(ctx, c.PaymentID, func(p *payment.Payment) error {
		if a.Refused != "" {
			return p.RefuseCapture(c.PaymentID, c.OrderID, a.Refused)
		}
		return p.Capture(c.PaymentID, c.OrderID, c.Amount)
	})
}
