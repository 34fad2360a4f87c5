package order

import (
	"fmt"
	"slices"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/kit/aggregate"
)

// Refusals of a return.
var (
	ErrNotConfirmed   = aggregate.Refuse("only a confirmed order can be returned")
	ErrReturned       = aggregate.Refuse("another return of this order was requested before; an order has one return")
	ErrNoReturn       = aggregate.Refuse("the return of this order is not open")
	ErrReturnLines    = aggregate.Refuse("a return needs at least one line")
	ErrNotOrdered     = aggregate.Refuse("the order has no line with this SKU")
	ErrReturnQuantity = aggregate.Refuse("a returned quantity is from 1 to the ordered quantity")
)

// ReturnStatus is the status of a return.
type ReturnStatus string

// Statuses of a return. A return is requested until an inspection accepts the goods. Returned and rejected are final.
const (
	ReturnIsRequested ReturnStatus = "requested"
	ReturnIsAccepted  ReturnStatus = "accepted"
	ReturnIsClosed    ReturnStatus = "returned"
	ReturnIsRejected  ReturnStatus = "rejected"
)

// ReturnLine is a returned quantity of one SKU. The goods are replaced by new goods if Replace is set; otherwise their price is refunded.
type ReturnLine struct {
	Line
	Replace bool `json:"replace,omitempty"`
}

// Return is the return of an order. The zero Return means that no return was requested.
type Return struct {
	Status       ReturnStatus
	ParcelNumber string
	Lines        []ReturnLine
	Refund       money.Money
	Damaged      bool
	Reason       string // of the rejection
}

// ParcelNumber returns the number of the parcel in which an order is returned.
func ParcelNumber(orderID string) string { return "R-" + orderID }

// Return is the return of the order, the zero Return if none was requested.
func (o *Order) Return() Return { return o.returned }

// RequestReturn records the lines that the customer returns, with the prices of the order. A request with the same lines as before changes nothing. Errors
// are ErrNotConfirmed, ErrUnknown, ErrReturned, or an *aggregate.FieldError about a line.
func (o *Order) RequestReturn(asked []ReturnLine) error {
	switch o.status {
	case IsConfirmed:
	case Pending, IsCancelled:
		return ErrNotConfirmed
	default:
		return ErrUnknown
	}
	lines, refund, err := o.priced(asked)
	switch {
	case err != nil:
		return err
	case o.returned.Status == "":
		o.Record(o.apply, ReturnRequested{OrderID: o.id, ParcelNumber: ParcelNumber(o.id), Lines: lines, Refund: refund})
		return nil
	case slices.Equal(lines, o.returned.Lines):
		return nil
	}
	return ErrReturned
}

// priced checks the lines of a return, sorts them in the order of the ordered lines, and adds up the refund. The refund is a part of the total, so it does
// not overflow.
func (o *Order) priced(asked []ReturnLine) (lines []ReturnLine, refund money.Money, err error) {
	refund.Currency = o.total.Currency
	if len(asked) == 0 {
		return nil, refund, aggregate.InField("lines", ErrReturnLines)
	}
	at := make([]int, len(o.lines)) // index in asked plus 1, by the index of the ordered line; 0: not returned
	for i, line := range asked {
		n := slices.IndexFunc(o.lines, func(l Line) bool { return l.SKU == line.SKU })
		switch {
		case n < 0:
			return nil, refund, aggregate.InField(fmt.Sprintf("lines[%d].sku", i), ErrNotOrdered)
		case at[n] > 0:
			return nil, refund, aggregate.InField(fmt.Sprintf("lines[%d].sku", i), ErrTwice)
		case line.Quantity < 1 || line.Quantity > o.lines[n].Quantity:
			return nil, refund, aggregate.InField(fmt.Sprintf("lines[%d].quantity", i), ErrReturnQuantity)
		}
		at[n] = i + 1
	}
	for n, line := range o.lines {
		if at[n] == 0 {
			continue
		}
		back := asked[at[n]-1]
		back.UnitPrice = line.UnitPrice
		if !back.Replace {
			refund.Amount += back.Quantity * back.UnitPrice
		}
		lines = append(lines, back)
	}
	return lines, refund, nil
}

// RemindReturn records that the customer is reminded of the parcel. It does nothing after the inspection.
func (o *Order) RemindReturn() error {
	if o.returned.Status == ReturnIsRequested {
		o.Record(o.apply, ReturnReminded{OrderID: o.id, ParcelNumber: o.returned.ParcelNumber})
	}
	return nil
}

// AcceptGoods records that an inspection accepts the returned goods. Accepting twice changes nothing. The error is ErrNoReturn.
func (o *Order) AcceptGoods(damaged bool) error {
	switch o.returned.Status {
	case ReturnIsRequested:
		o.Record(o.apply, GoodsAccepted{OrderID: o.id, Damaged: damaged})
		return nil
	case ReturnIsAccepted, ReturnIsClosed:
		return nil
	case ReturnIsRejected:
	}
	return ErrNoReturn
}

// RejectGoods records that an inspection does not accept the returned goods. It does not end the return: RejectReturn must follow. Each call records an
// event. The error is ErrNoReturn.
func (o *Order) RejectGoods(reason string) error {
	if o.returned.Status != ReturnIsRequested {
		return ErrNoReturn
	}
	o.Record(o.apply, GoodsRejected{OrderID: o.id, Reason: reason})
	return nil
}

// CloseReturn completes an accepted return. Closing twice changes nothing. The error is ErrNoReturn.
func (o *Order) CloseReturn() error {
	switch o.returned.Status {
	case ReturnIsAccepted:
		o.Record(o.apply, Returned{OrderID: o.id, Refund: o.returned.Refund})
		return nil
	case ReturnIsClosed:
		return nil
	case ReturnIsRequested, ReturnIsRejected:
	}
	return ErrNoReturn
}

// RejectReturn ends a return that was not accepted. Rejecting twice changes nothing. The error is ErrNoReturn.
func (o *Order) RejectReturn(reason string) error {
	switch o.returned.Status {
	case ReturnIsRequested:
		o.Record(o.apply, ReturnRejected{OrderID: o.id, Reason: reason})
		return nil
	case ReturnIsRejected:
		return nil
	case ReturnIsAccepted, ReturnIsClosed:
	}
	return ErrNoReturn
}
