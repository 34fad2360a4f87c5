package payment_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

func euros(n int64) money.Money { return money.Money{Amount: n, Currency: "EUR"} }

func authorise(p *payment.Payment) error { return p.Authorise("p-1", "o-1", euros(2500), "ref") }
func decline(p *payment.Payment) error   { return p.Decline("p-1", "o-1", "no") }
func void(p *payment.Payment) error      { return p.Void("p-1", "o-1") }

func capture(m money.Money) func(*payment.Payment) error {
	return func(p *payment.Payment) error { return p.Capture("p-1", "o-1", m) }
}

func refund(m money.Money) func(*payment.Payment) error {
	return func(p *payment.Payment) error { return p.Refund("p-1", "o-1", m, "ref") }
}

func TestPayment(t *testing.T) {
	aPayment := aggregatetest.For(payment.Rebuild)
	held := payment.Authorised{PaymentID: "p-1", OrderID: "o-1", Amount: euros(2500), Reference: "ref"}
	voided := payment.Voided{PaymentID: "p-1", OrderID: "o-1", Amount: 2500}
	captured := payment.Captured{PaymentID: "p-1", OrderID: "o-1", Amount: euros(2500)}
	declined := payment.Declined{PaymentID: "p-1", OrderID: "o-1", Reason: "no"}

	t.Run("authorised", aPayment.Given().When(authorise).Then(held))
	t.Run("authorised once", aPayment.Given(held).When(authorise).Nothing())
	t.Run("declined", aPayment.Given().When(decline).Then(declined))
	t.Run("declined: not authorised", aPayment.Given(declined).When(authorise).Refused(payment.ErrVoided))
	t.Run("voided", aPayment.Given(held).When(void).Then(voided))
	t.Run("never authorised: voided all the same", aPayment.Given().When(void).Then(payment.Voided{PaymentID: "p-1", OrderID: "o-1"}))
	t.Run("voided first: never authorised", aPayment.Given(payment.Voided{}).When(authorise).Refused(payment.ErrVoided))
	t.Run("captured", aPayment.Given(held).When(capture(euros(2500))).Then(captured))
	t.Run("captured once", aPayment.Given(held, captured).When(capture(euros(2500))).Nothing())
	t.Run("captured: not voided", aPayment.Given(held, captured).When(void).Refused(payment.ErrCaptured))
	t.Run("voided: not captured", aPayment.Given(held, voided).When(capture(euros(2500))).Refused(payment.ErrNotHeld))
	t.Run("more than is held", aPayment.Given(held).When(capture(euros(2501))).Refused(payment.ErrMoreThan))
	t.Run("another currency", aPayment.Given(held).When(capture(money.Money{Amount: 1, Currency: "USD"})).Refused(payment.ErrMoreThan))
	refunded := payment.Refunded{PaymentID: "p-1", OrderID: "o-1", Amount: euros(1000), Reference: "ref"}
	t.Run("refunded", aPayment.Given(held, captured).When(refund(euros(1000))).Then(refunded))
	t.Run("refunded once", aPayment.Given(held, captured, refunded).When(refund(euros(1000))).Nothing())
	t.Run("more than is captured", aPayment.Given(held, captured).When(refund(euros(2501))).Refused(payment.ErrRefund))
	t.Run("refund in another currency", aPayment.Given(held, captured).When(refund(money.Money{Amount: 1, Currency: "USD"})).Refused(payment.ErrRefund))
	t.Run("not captured: not refunded", aPayment.Given(held).When(refund(euros(1))).Refused(payment.ErrRefund))
	t.Run("nothing to refund", aPayment.Given(held, captured).When(refund(euros(0))).Refused(payment.ErrNotCounted))
	refuse := func(p *payment.Payment) error { return p.RefuseRefund("p-1", "o-1", "no") }
	refused := payment.RefundRefused{PaymentID: "p-1", OrderID: "o-1", Reason: "no"}
	t.Run("refund refused, and again", aPayment.Given(held, captured, refused).When(refuse).Then(refused))
	t.Run("refunded: a refusal comes too late", aPayment.Given(held, captured, refunded).When(refuse).Nothing())
	t.Run("capture refused: still held", aPayment.Given(held, payment.CaptureRefused{}).When(void).Then(voided))
}

// After any sequence of commands the captured amount is at most the authorised amount, the refunded amount is at most the captured amount, a payment stays
// declined, voided or captured, and a rebuild gives the state that recorded the events.
func TestPaymentProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := payment.Rebuild(nil)
		var final payment.Status
		for range rapid.IntRange(0, 20).Draw(t, "commands") {
			switch rapid.SampledFrom([]string{"authorise", "decline", "void", "capture", "refuse", "refund"}).Draw(t, "command") {
			case "authorise":
				_ = authorise(p)
			case "decline":
				_ = decline(p)
			case "void":
				_ = void(p)
			case "capture":
				_ = capture(euros(rapid.Int64Range(1, 5000).Draw(t, "amount")))(p)
			case "refuse":
				_ = p.RefuseCapture("p-1", "o-1", "no")
			case "refund":
				_ = refund(euros(rapid.Int64Range(1, 5000).Draw(t, "amount")))(p)
			}
			if p.RefundedAmount() > p.CapturedAmount() {
				t.Fatalf("refunded %d of %d", p.RefundedAmount(), p.CapturedAmount())
			}
			if p.CapturedAmount() > p.AuthorisedAmount() {
				t.Fatalf("captured %d of %d", p.CapturedAmount(), p.AuthorisedAmount())
			}
			// A declined payment may be voided, which has no effect.
			if final != "" && p.Status() != final && (final != payment.IsDeclined || p.Status() != payment.IsVoided) {
				t.Fatalf("%s after it was %s", p.Status(), final)
			}
			if s := p.Status(); s == payment.IsCaptured || s == payment.IsVoided || s == payment.IsDeclined {
				final = s
			}
		}
		var history []payment.Event
		for _, e := range p.Changes() {
			history = append(history, e.(payment.Event))
		}
		if again := payment.Rebuild(history); again.Status() != p.Status() || again.CapturedAmount() != p.CapturedAmount() {
			t.Fatalf("folded to %+v, was %+v", again, p)
		}
	})
}
