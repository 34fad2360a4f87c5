package gateway

import (
	"context"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/money"
)

// Payments is the payment provider.
type Payments struct{ client client }

// NewPayments calls the provider at a base URL.
func NewPayments(base string) Payments { return Payments{newClient(base)} }

type paymentRequest struct {
	PaymentID string `json:"payment_id"`
	Amount    int64  `json:"amount,omitempty"`
	Currency  string `json:"currency,omitempty"`
	Method    string `json:"method,omitempty"`
}

// Authorise implements command.Provider.
func (p Payments) Authorise(ctx context.Context, id string, amount money.Money, method string) (command.Answer, error) {
	return p.client.post(ctx, "/authorisations", id, paymentRequest{id, amount.Amount, amount.Currency, method}, false)
}

// Capture implements command.Provider.
func (p Payments) Capture(ctx context.Context, id string, amount money.Money) (command.Answer, error) {
	return p.client.post(ctx, "/captures", id, paymentRequest{PaymentID: id, Amount: amount.Amount, Currency: amount.Currency}, false)
}

// Void implements command.Provider.
func (p Payments) Void(ctx context.Context, id string) error {
	answer, err := p.client.post(ctx, "/voids", id, paymentRequest{PaymentID: id}, true)
	return must(answer, err, "void payment "+id)
}
