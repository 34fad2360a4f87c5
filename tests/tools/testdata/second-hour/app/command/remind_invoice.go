package command

import (
	"context"

	"github.com/acme/billing/domain/invoice"
	"github.com/millrace/millrace/kit/cqrs"
)

// RemindInvoice reminds the customer.
type RemindInvoice struct {
	InvoiceID string `json:"invoice_id"`
}

// Key keeps the commands of one invoice in order.
func (c RemindInvoice) Key() string { return c.InvoiceID }

type remindInvoice struct{ invoices cqrs.Store[*invoice.Invoice] }

func (h remindInvoice) handle(ctx context.Context, c RemindInvoice) error {
	return h.invoices.Update(ctx, c.InvoiceID, func(i *invoice.Invoice) error { return i.Remind(c.InvoiceID) })
}
