// Package dunning is the saga that reminds a customer of an invoice.
package dunning

import (
	"time"

	"github.com/acme/billing/app/command"
	"github.com/acme/billing/domain/invoice"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Name is the definition's name in histories, on the command line and on pages.
const Name = "dunning"

// Data is what an instance remembers.
type Data struct {
	InvoiceID string `json:"invoice_id"`
}

// Definition is the process.
var Definition = saga.Definition[Data]{
	Name:    Name,
	Version: 1,
	Start:   saga.On(func(d *Data, e invoice.Issued) { d.InvoiceID = e.InvoiceID }),
	Steps: []saga.Step[Data]{
		{
			Name:         "send reminder",
			Action:       func(d Data) cqrs.Keyed { return command.RemindInvoice{InvoiceID: d.InvoiceID} },
			Completed:    saga.Event[invoice.Reminded, Data](),
			Compensation: func(d Data) cqrs.Keyed { return command.ExcuseInvoice{InvoiceID: d.InvoiceID} },
			Compensated:  saga.Event[invoice.Excused, Data](),
			Timeout:      20 * time.Second,
		},
	},
	OnCompensated: saga.FinalStep[Data]{
		Name:      "excuse",
		Action:    func(d Data, _ string) cqrs.Keyed { return command.ExcuseInvoice{InvoiceID: d.InvoiceID} },
		Completed: saga.Event[invoice.Excused, Data](),
		Timeout:   10 * time.Second,
	},
}
