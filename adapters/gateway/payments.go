package gateway

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpclient"

	"github.com/millrace/millrace/domain/money"
)

// Payments is the payment provider.
type Payments struct{ client httpclient.Client }

// NewPayments makes the client of the provider at a base URL.
func NewPayments(base string) Payments { return Payments{httpclient.New(base)} }

type paymentRequest struct {
	PaymentID string `json:"payment_id"`
	Amount    int64  `json:"amount,omitempty"`
	Currency  string `json:"currency,omitempty"`
	Method    string `json:"method,omitempty"`
}

// Authorise implements command.Provider.
func (p Payments) Authorise(ctx context.Context, id string, amount money.Money, method string) (cqrs.CallResult, error) {
	return p.client.Post(ctx, "/authorisations", id, paymentRequest{id, amount.Amount, amount.Currency, method}, false)
}

// Capture implements command.Provider.
func (p Payments) Capture(ctx context.Context, id string, amount money.Money) (cqrs.CallResult, error) {
	return p.client.Post(ctx, "/captures", id, paymentRequest{PaymentID: id, Amount: amount.Amount, Currency: amount.Currency}, false)
}

// Void implements command.Provider.
func (p Payments) Void(ctx context.Context, id string) error {
	answer, err := p.client.Post(ctx, "/voids", id, paymentRequest{PaymentID: id}, true)
	return httpclient.Accepted(answer, err, "void payment "+id)
}
