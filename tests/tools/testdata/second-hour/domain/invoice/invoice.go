// Package invoice is what a customer owes for one thing.
package invoice

import "github.com/millrace/millrace/kit/aggregate"

// Category is the name of this kind of aggregate in streams and topics.
const Category = "invoices"

// ErrPaid refuses what is asked of an invoice that is paid.
var ErrPaid = aggregate.Refuse("the invoice is paid")

// Invoice is the aggregate. Rules: issued once; nobody is reminded of what is paid.
type Invoice struct {
	aggregate.Root[Event]
	issued, paid, reminded bool
}

// Rebuild folds a history.
func Rebuild(history []Event) *Invoice {
	i := &Invoice{}
	i.Replay(i.apply, history)
	return i
}

// Issue makes the customer owe it. Repeating it changes nothing.
func (i *Invoice) Issue(id string) error {
	if !i.issued {
		i.Record(i.apply, Issued{id})
	}
	return nil
}

// Pay ends it.
func (i *Invoice) Pay(id string) error {
	if !i.paid {
		i.Record(i.apply, Paid{id})
	}
	return nil
}

// Remind reminds the customer, unless it is paid.
func (i *Invoice) Remind(id string) error {
	if i.paid {
		return ErrPaid
	}
	i.Record(i.apply, Reminded{id})
	return nil
}

// Excuse takes a reminder back.
func (i *Invoice) Excuse(id string) error {
	i.Record(i.apply, Excused{id})
	return nil
}
