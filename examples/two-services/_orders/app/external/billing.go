package external

import (
	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"

	"example.com/orders/domain/money"
)

// IssueInvoice asks billing to have the customer owe an order's total.
type IssueInvoice struct {
	InvoiceID string      `json:"invoice_id"`
	Total     money.Money `json:"total"`
}

// Key keeps the commands of one invoice in order.
func (c IssueInvoice) Key() string { return c.InvoiceID }

// CancelInvoice asks billing to take it back.
type CancelInvoice struct {
	InvoiceID string `json:"invoice_id"`
}

// Key keeps the commands of one invoice in order.
func (c CancelInvoice) Key() string { return c.InvoiceID }

// InvoiceIssued says that the customer owes it.
type InvoiceIssued struct{}

// InvoiceRefused says that billing does not trust the customer that far.
type InvoiceRefused struct {
	Reason string `json:"reason"`
}

// InvoiceCancelled says that nothing is owed any more.
type InvoiceCancelled struct{}

var billing = cqrs.ExternalService{
	Service: "billing", Category: "invoices",
	Commands: []cqrs.Handler{cqrs.ExternalCommand[IssueInvoice]("IssueInvoice"), cqrs.ExternalCommand[CancelInvoice]("CancelInvoice")},
	Events: aggregate.TypesOf(
		aggregate.NewType[InvoiceIssued]("invoice.issued"),
		aggregate.NewType[InvoiceRefused]("invoice.refused"),
		aggregate.NewType[InvoiceCancelled]("invoice.cancelled"),
	),
}
