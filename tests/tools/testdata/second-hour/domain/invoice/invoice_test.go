package invoice_test

import (
	"testing"

	"github.com/acme/billing/domain/invoice"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

func issue(i *invoice.Invoice) error  { return i.Issue("i-1") }
func pay(i *invoice.Invoice) error    { return i.Pay("i-1") }
func remind(i *invoice.Invoice) error { return i.Remind("i-1") }

func TestInvoice(t *testing.T) {
	anInvoice := aggregatetest.For(invoice.Rebuild)
	issued, paid, reminded := invoice.Issued{InvoiceID: "i-1"}, invoice.Paid{InvoiceID: "i-1"}, invoice.Reminded{InvoiceID: "i-1"}

	t.Run("issued", anInvoice.Given().When(issue).Then(issued))
	t.Run("issued once", anInvoice.Given(issued).When(issue).Nothing())
	t.Run("paid", anInvoice.Given(issued).When(pay).Then(paid))
	t.Run("reminded", anInvoice.Given(issued).When(remind).Then(reminded))
	t.Run("paid: nobody is reminded", anInvoice.Given(issued, paid).When(remind).Refused(invoice.ErrPaid))
}
