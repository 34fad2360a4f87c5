package fulfilment

import (
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"

	"example.com/orders/app/external"
)

// Invoiced is the process with billing in it: after the goods are kept, billing, a service of its own, issues an invoice. If it refuses,
// the goods are released; if something later fails, the invoice is cancelled before that.
var Invoiced = func() saga.Definition[Data] {
	d := Definition
	d.Version = 3
	d.Steps = slices.Insert(slices.Clone(d.Steps), 1, saga.Step[Data]{
		Name:         "issue invoice",
		Action:       func(d Data) cqrs.Keyed { return external.IssueInvoice{InvoiceID: d.OrderID, Total: d.Total} },
		Completed:    saga.Event[external.InvoiceIssued, Data](),
		Refused:      []saga.Refusal{saga.RefusedBy(func(e external.InvoiceRefused) string { return e.Reason })},
		Compensation: func(d Data) cqrs.Keyed { return external.CancelInvoice{InvoiceID: d.OrderID} },
		Compensated:  saga.Event[external.InvoiceCancelled, Data](),
		Timeout:      20 * time.Second,
	})
	return d
}()
