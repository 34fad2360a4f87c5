package command

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"

	"example.com/billing/domain/invoice"
)

// IssueInvoice has the customer owe it.
type IssueInvoice struct {
	InvoiceID string        `json:"invoice_id"`
	Total     invoice.Money `json:"total"`
}

// Key keeps the commands of one invoice in order.
func (c IssueInvoice) Key() string { return c.InvoiceID }

type issueInvoice struct{ invoices cqrs.Store[*invoice.Invoice] }

func (h issueInvoice) handle(ctx context.Context, c IssueInvoice) error {
	return h.invoices.Update(ctx, c.InvoiceID, func(i *invoice.Invoice) error { return i.Issue(c.InvoiceID, c.Total) })
}
