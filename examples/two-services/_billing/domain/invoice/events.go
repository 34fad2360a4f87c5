package invoice

import "github.com/millrace/millrace/kit/aggregate"

// Event is an event of the invoice.
//
//sumtype:decl
type Event interface{ invoice() }

// Issued says that the customer owes it.
type Issued struct {
	InvoiceID string `json:"invoice_id"`
	Total     Money  `json:"total"`
}

// Refused says that the customer is not trusted that far.
type Refused struct {
	InvoiceID string `json:"invoice_id"`
	Reason    string `json:"reason"`
}

// Cancelled says that nothing is owed any more.
type Cancelled struct {
	InvoiceID string `json:"invoice_id"`
}

func (Issued) invoice()    {}
func (Refused) invoice()   {}
func (Cancelled) invoice() {}

// Types maps the events to their stored names.
var Types = aggregate.TypesOf(
	aggregate.NewType[Issued]("invoice.issued"),
	aggregate.NewType[Refused]("invoice.refused"),
	aggregate.NewType[Cancelled]("invoice.cancelled"),
)

func (i *Invoice) apply(e Event) {
	i.decided = true
	_, i.issued = e.(Issued)
}
