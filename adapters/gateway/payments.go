package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpclient"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/kit/sandbox"
)

// PaymentsService registers the payment provider.
var PaymentsService = runner.Gateway{Name: "payments", Destination: payment.Category, StandIn: paymentsStandIn}

// Payments is the client of the payment provider. It implements command.Provider.
type Payments struct{ client httpclient.Client }

// NewPayments makes the client of the payment provider at a base URL.
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

// Refund implements command.Provider.
func (p Payments) Refund(ctx context.Context, id string, amount money.Money) (cqrs.CallResult, error) {
	return p.client.Post(ctx, "/refunds", id, paymentRequest{PaymentID: id, Amount: amount.Amount, Currency: amount.Currency}, false)
}

// paymentsStandIn is the stand-in of the provider. The payment method chooses its answer: pm_ok is accepted, pm_declined is declined, pm_error answers 500,
// pm_slow is accepted but answered after a minute, pm_capture_refused is authorised but its capture is refused.
func paymentsStandIn() *sandbox.Service {
	return sandbox.New("payments", func(r paymentRequest) string { return r.PaymentID }, []string{"authorised", "captured", "voided", "refunded", "held"},
		sandbox.Operation[paymentRequest]{
			Name: "authorise", Path: "/authorisations", Reference: "auth-", Status: http.StatusPaymentRequired, Refusal: "payment declined", Barred: "voided",
			Decide: func(r paymentRequest, _ sandbox.Effects) sandbox.Decision {
				switch r.Method {
				case "pm_ok":
					return sandbox.Decision{Amount: r.Amount}
				case "pm_slow":
					return sandbox.Decision{Amount: r.Amount, Delay: time.Minute}
				case "pm_capture_refused":
					return sandbox.Decision{Amount: r.Amount, Never: "capture"}
				case "pm_error":
					return sandbox.Decision{Status: http.StatusInternalServerError, Refused: "pm_error"}
				case "pm_declined":
					return sandbox.Decision{Refused: "payment declined"}
				}
				return sandbox.Decision{Refused: "unknown payment method"}
			},
			Count: func(l sandbox.Ledger, amount int64, _ sandbox.Effects) {
				l["authorised"] += amount
				l["held"] += amount
			},
		},
		sandbox.Operation[paymentRequest]{
			Name: "capture", Path: "/captures", Reference: "capture-", Status: http.StatusPaymentRequired, Refusal: "capture refused",
			Decide: func(r paymentRequest, done sandbox.Effects) sandbox.Decision {
				if !done.Has("authorise") || done.Amount("authorise") < r.Amount {
					return sandbox.Decision{Status: http.StatusPaymentRequired, Refused: "nothing is held for this payment"}
				}
				return sandbox.Decision{Amount: r.Amount}
			},
			Count: func(l sandbox.Ledger, amount int64, done sandbox.Effects) {
				l["captured"] += amount
				l["held"] -= done.Amount("authorise")
			},
		},
		sandbox.Operation[paymentRequest]{
			Name: "void", Path: "/voids", Reference: "void-", Undoes: "authorise",
			Decide: func(_ paymentRequest, done sandbox.Effects) sandbox.Decision {
				if done.Has("capture") {
					return sandbox.Decision{Status: http.StatusConflict, Refused: "already captured"}
				}
				return sandbox.Decision{}
			},
			Count: func(l sandbox.Ledger, amount int64, _ sandbox.Effects) {
				l["voided"] += amount
				l["held"] -= amount
			},
		},
		sandbox.Operation[paymentRequest]{
			Name: "refund", Path: "/refunds", Reference: "refund-", Status: http.StatusPaymentRequired, Refusal: "refund refused",
			Decide: func(r paymentRequest, done sandbox.Effects) sandbox.Decision {
				if !done.Has("capture") || done.Amount("capture") < r.Amount {
					return sandbox.Decision{Status: http.StatusPaymentRequired, Refused: "less is captured for this payment"}
				}
				return sandbox.Decision{Amount: r.Amount}
			},
			Count: func(l sandbox.Ledger, amount int64, _ sandbox.Effects) { l["refunded"] += amount },
		},
	)
}
