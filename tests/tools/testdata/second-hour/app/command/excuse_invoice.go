package command

import (
	"context"

	"github.com/acme/billing/domain/invoice"
	"github.com/millrace/millrace/kit/cqrs"
)

// ExcuseInvoice takes a reminder back.
type ExcuseInvoice struct {
	InvoiceID string `json:"invoice_id"`
}

// Key keeps the commands of one invoice in order.
func (c ExcuseInvoice) Key() string { return c.InvoiceID }

type excuseInvoice struct{ invoices cqrs.Store[*invoice.Invoice] }

func (h excuseInvoice) handle(ctx context.Context, c ExcuseInvoice) error {
	return h.invoices.Update(ctx, c.InvoiceID, func(i *invoice.Invoice) error { return i.Excuse(c.InvoiceID) })
}
