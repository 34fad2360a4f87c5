package fulfilment_test

import (
	"testing"

	"github.com/millrace/millrace/kit/saga/sagatest"

	"example.com/orders/app/external"
	"example.com/orders/domain/inventory"
	"example.com/orders/domain/money"
	"example.com/orders/domain/order"
	"example.com/orders/sagas/fulfilment"
)

func TestInvoiced(t *testing.T) {
	withBilling := sagatest.For(fulfilment.Invoiced)
	placedOrder := order.Placed{OrderID: "o1", Total: money.Money{Amount: 500, Currency: "EUR"}}
	t.Run("asked", withBilling.Given(placedOrder).When(inventory.Reserved{}).
		Then(external.IssueInvoice{InvoiceID: "o1", Total: money.Money{Amount: 500, Currency: "EUR"}}))
}
