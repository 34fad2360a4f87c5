package fulfilment_test

import (
	"testing"

	"example.com/orders/app/external"
	"example.com/orders/domain/inventory"
	"example.com/orders/domain/money"
	"example.com/orders/domain/order"
	"example.com/orders/sagas/fulfilment"
	"example.com/orders/sagas/sagatest"
)

func TestInvoiced(t *testing.T) {
	withBilling := sagatest.For(fulfilment.Invoiced)
	placedOrder := order.Placed{OrderID: "o1", Total: money.Money{Amount: 500, Currency: "EUR"}}
	t.Run("asked", withBilling.Given(placedOrder).When(inventory.Reserved{}).
		Then(external.IssueInvoice{InvoiceID: "o1", Total: money.Money{Amount: 500, Currency: "EUR"}}))
}
