package dunning_test

import (
	"testing"

	"github.com/acme/billing/app/command"
	"github.com/acme/billing/domain/invoice"
	"github.com/acme/billing/sagas/dunning"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
)

var (
	theSaga  = sagatest.For(dunning.Definition)
	issued   = invoice.Issued{InvoiceID: "i-1"}
	reminded = invoice.Reminded{InvoiceID: "i-1"}
	excused  = invoice.Excused{InvoiceID: "i-1"}
)

func TestForwards(t *testing.T) {
	t.Run("issued", theSaga.Given().When(issued).Then(command.RemindInvoice{InvoiceID: "i-1"}))
	t.Run("reminded", theSaga.Given(issued).When(reminded).Ends(saga.StatusCompleted))
}

func TestBack(t *testing.T) {
	t.Run("no answer", theSaga.Given(issued).When(sagatest.TimeOut{}).Then(command.ExcuseInvoice{InvoiceID: "i-1"}))
	t.Run("excused", theSaga.Given(issued, sagatest.TimeOut{}).When(excused).Then(command.ExcuseInvoice{InvoiceID: "i-1"}))
}
