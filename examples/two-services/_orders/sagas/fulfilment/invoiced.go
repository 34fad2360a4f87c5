package fulfilment

import (
	"slices"
	"time"

	"example.com/orders/app"
	"example.com/orders/app/external"
	"example.com/orders/sagas/saga"
)

// Invoiced is the process with billing in it: after the goods are kept, billing, a service of its own, issues an invoice. If it refuses,
// the goods are released; if something later fails, the invoice is cancelled before that.
var Invoiced = func() saga.Definition[Data] {
	d := Definition
	d.Version = 3
	d.Steps = slices.Insert(slices.Clone(d.Steps), 1, saga.Step[Data]{
		Name:      "issue invoice",
		Do:        func(d Data) app.Keyed { return external.IssueInvoice{InvoiceID: d.OrderID, Total: d.Total} },
		Completed: saga.Event[external.InvoiceIssued, Data](),
		Refused:   []saga.Refusal{saga.Because(func(e external.InvoiceRefused) string { return e.Reason })},
		Undo:      func(d Data) app.Keyed { return external.CancelInvoice{InvoiceID: d.OrderID} },
		Undone:    saga.Event[external.InvoiceCancelled, Data](),
		Within:    20 * time.Second,
	})
	return d
}()
