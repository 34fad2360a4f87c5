package invoice_test

import (
	"testing"

	"github.com/millrace/millrace/kit/aggregate/aggregatetest"

	"example.com/billing/domain/invoice"
)

func TestInvoice(t *testing.T) {
	anInvoice := aggregatetest.For(invoice.Rebuild)
	five, much := invoice.Money{Amount: 500, Currency: "EUR"}, invoice.Money{Amount: 200_000, Currency: "EUR"}
	issue := func(total invoice.Money) func(*invoice.Invoice) error {
		return func(i *invoice.Invoice) error { return i.Issue("i1", total) }
	}
	cancel := func(i *invoice.Invoice) error { return i.Cancel("i1") }
	t.Run("issued", anInvoice.Given().When(issue(five)).Then(invoice.Issued{InvoiceID: "i1", Total: five}))
	t.Run("issued once", anInvoice.Given(invoice.Issued{InvoiceID: "i1", Total: five}).When(issue(five)).Then())
	t.Run("refused", anInvoice.Given().When(issue(much)).Then(invoice.Refused{InvoiceID: "i1", Reason: "billing trusts up to 100000, not 200000"}))
	t.Run("cancelled", anInvoice.Given(invoice.Issued{InvoiceID: "i1", Total: five}).When(cancel).Then(invoice.Cancelled{InvoiceID: "i1"}))
	t.Run("never issued after", anInvoice.Given(invoice.Cancelled{InvoiceID: "i1"}).When(issue(five)).Then())
}
