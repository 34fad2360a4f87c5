// Package order is the order of a customer. An order is placed once and is then confirmed or cancelled. A confirmed order can be returned once.
package order

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/kit/aggregate"
)

// Category names the streams and topics of this aggregate.
const Category = "orders"

// Limits of one order.
const (
	MaxLines    = 100
	MaxQuantity = 1_000_000
)

// Refusals of an order.
var (
	ErrDecided  = aggregate.Refuse("the order is already decided")
	ErrPlaced   = aggregate.Refuse("an order with this id was already placed")
	ErrUnknown  = aggregate.Refuse("there is no such order")
	ErrNoLines  = aggregate.Refuse("an order needs at least one line")
	ErrLines    = aggregate.Refuse(fmt.Sprintf("an order has at most %d lines", MaxLines))
	ErrQuantity = aggregate.Refuse(fmt.Sprintf("a quantity is from 1 to %d", MaxQuantity))
	ErrSKU      = aggregate.Refuse("a SKU is 1 to 64 letters, digits, dots, dashes or underscores")
	ErrTwice    = aggregate.Refuse("a SKU may stand in one line only")
	ErrMethod   = aggregate.Refuse("must be 1 to 64 printable characters")
	ErrReason   = aggregate.Refuse("a cancellation needs a reason")
)

var skuForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidSKU reports whether a text has the form of a SKU.
func ValidSKU(sku string) bool { return skuForm.MatchString(sku) }

// Status is the status of an order.
type Status string

// Statuses of an order. An order is pending until its saga has ended.
const (
	Pending     Status = "pending"
	IsConfirmed Status = "confirmed"
	IsCancelled Status = "cancelled"
)

// Line is a quantity of one SKU.
type Line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"` // in minor units
}

// Order is the aggregate of an order. Its rules: it is placed once and decided once; it has at least one line; its total is the sum of its lines.
type Order struct {
	aggregate.Root[Event]
	id, customer, method string
	lines                []Line
	total                money.Money
	status               Status
	reason               string
	returned             Return
}

// Rebuild rebuilds an Order from its history.
func Rebuild(history []Event) *Order {
	o := &Order{}
	o.Replay(o.apply, history)
	return o
}

// Place places the order. The error is ErrPlaced if it is already placed; otherwise it is an *aggregate.FieldError that wraps a refusal of this package or of
// package money.
func (o *Order) Place(id, customer, currency, method string, lines []Line) error {
	if o.status != "" {
		return ErrPlaced
	}
	if method == "" || len(method) > 64 || strings.ContainsFunc(method, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return aggregate.InField("payment_method", ErrMethod)
	}
	total, err := Total(currency, lines)
	if err != nil {
		return err
	}
	o.Record(o.apply, Placed{OrderID: id, CustomerID: customer, Lines: lines, Total: total, PaymentMethod: method})
	return nil
}

// Total checks the lines and returns the sum of their prices. The error is an *aggregate.FieldError.
func Total(currency string, lines []Line) (money.Money, error) {
	total, err := money.New(0, currency)
	if err != nil {
		return total, aggregate.InField("currency", err)
	}
	switch {
	case len(lines) == 0:
		return total, aggregate.InField("lines", ErrNoLines)
	case len(lines) > MaxLines:
		return total, aggregate.InField("lines", ErrLines)
	}
	seen := map[string]bool{}
	for i, line := range lines {
		if field, err := line.check(seen); err != nil {
			return total, aggregate.InField(fmt.Sprintf("lines[%d].%s", i, field), err)
		}
		seen[line.SKU] = true
		price, err := money.New(line.UnitPrice, currency)
		if err == nil {
			price, err = price.Times(line.Quantity)
		}
		if err == nil {
			total, err = total.Plus(price)
		}
		if err != nil {
			return total, aggregate.InField(fmt.Sprintf("lines[%d].unit_price", i), err)
		}
	}
	return total, nil
}

func (l Line) check(seen map[string]bool) (field string, err error) {
	switch {
	case !ValidSKU(l.SKU):
		return "sku", ErrSKU
	case seen[l.SKU]:
		return "sku", ErrTwice
	case l.Quantity < 1 || l.Quantity > MaxQuantity:
		return "quantity", ErrQuantity
	}
	return "", nil
}

// Confirm confirms a pending order. Confirming twice changes nothing. Errors are ErrDecided or ErrUnknown.
func (o *Order) Confirm() error {
	switch o.status {
	case Pending:
		o.Record(o.apply, Confirmed{OrderID: o.id})
		return nil
	case IsConfirmed:
		return nil
	case IsCancelled:
		return ErrDecided
	}
	return ErrUnknown
}

// Cancel cancels a pending order. Cancelling twice changes nothing. Errors are ErrReason, ErrDecided or ErrUnknown.
func (o *Order) Cancel(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	switch o.status {
	case Pending:
		o.Record(o.apply, Cancelled{OrderID: o.id, Reason: reason})
		return nil
	case IsCancelled:
		return nil
	case IsConfirmed:
		return ErrDecided
	}
	return ErrUnknown
}

// ID is the id of the order, empty until the order is placed.
func (o *Order) ID() string { return o.id }

// Customer is the id of the customer.
func (o *Order) Customer() string { return o.customer }

// Lines are the ordered lines.
func (o *Order) Lines() []Line { return o.lines }

// Total is the sum of the lines.
func (o *Order) Total() money.Money { return o.total }

// Status is the current status.
func (o *Order) Status() Status { return o.status }

// Reason is the reason of a cancellation.
func (o *Order) Reason() string { return o.reason }
