// Package invoice is what a customer owes for an order.
package invoice

import (
	"fmt"

	"github.com/millrace/millrace/kit/aggregate"
)

// Category is the name of this kind of aggregate in streams and topics.
const Category = "invoices"

// Limit is up to what total customers are trusted, in minor units of any currency.
const Limit = 100_000

// Money is an amount in minor units.
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Invoice is the aggregate. Rules: decided once; a cancelled one is never issued again.
type Invoice struct {
	aggregate.Root[Event]
	decided, issued bool
}

// Rebuild folds a history.
func Rebuild(history []Event) *Invoice {
	i := &Invoice{}
	i.Replay(i.apply, history)
	return i
}

// Issue makes the customer owe it, up to the limit.
func (i *Invoice) Issue(id string, total Money) error {
	switch {
	case i.decided:
	case total.Amount > Limit:
		i.Record(i.apply, Refused{id, fmt.Sprintf("billing trusts up to %d, not %d", Limit, total.Amount)})
	default:
		i.Record(i.apply, Issued{id, total})
	}
	return nil
}

// Cancel takes it back.
func (i *Invoice) Cancel(id string) error {
	if i.issued || !i.decided {
		i.Record(i.apply, Cancelled{id})
	}
	return nil
}
