package command

import (
	"context"

	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/cqrs"
)

// VoidPayment compensates AuthorisePayment.
type VoidPayment struct {
	PaymentID string `json:"payment_id"`
	OrderID   string `json:"order_id"`
}

// Key is the id of the payment: commands of one payment are handled in order.
func (c VoidPayment) Key() string { return c.PaymentID }

type voidPayment struct {
	payments cqrs.Store[*payment.Payment]
	provider Provider
}

func (h voidPayment) call(ctx context.Context, c VoidPayment) (struct{}, error) {
	return struct{}{}, h.provider.Void(ctx, c.PaymentID)
}

func (h voidPayment) record(ctx context.Context, c VoidPayment, _ struct{}) error {
	return h.payments.Update(ctx, c.PaymentID, func(p *payment.Payment) error {
		return p.Void(c.PaymentID, c.OrderID)
	})
}
