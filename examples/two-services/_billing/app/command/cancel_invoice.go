package command

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"

	"example.com/billing/domain/invoice"
)

// CancelInvoice takes it back.
type CancelInvoice struct {
	InvoiceID string `json:"invoice_id"`
}

// Key keeps the commands of one invoice in order.
func (c CancelInvoice) Key() string { return c.InvoiceID }

type cancelInvoice struct{ invoices cqrs.Store[*invoice.Invoice] }

func (h cancelInvoice) handle(ctx context.Context, c CancelInvoice) error {
	return h.invoices.Update(ctx, c.InvoiceID, func(i *invoice.Invoice) error { return i.Cancel(c.InvoiceID) })
}
