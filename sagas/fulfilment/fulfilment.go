// Package fulfilment is the saga of a placed order: reserve stock, authorise the payment, book a shipment, capture the payment, take the stock out, confirm
// the order. If a step fails before the pivot, the saga compensates the completed steps in reverse order and cancels the order.
package fulfilment

import (
	"slices"
	"time"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Name is the name of the definition, in histories, on the command line and on pages.
const Name = "order-fulfilment"

// Data is the state of an instance. An order has one payment and one shipment, both with the id of the order; a shipment with the courier has another id.
type Data struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
	Total   money.Money  `json:"total"`
	Method  string       `json:"method"`
}

// Definition is the current version of the saga.
var Definition = saga.Definition[Data]{
	Name:    Name,
	Version: 2,
	Start: saga.On(func(d *Data, e order.Placed) {
		*d = Data{OrderID: e.OrderID, Lines: e.Lines, Total: e.Total, Method: e.PaymentMethod}
	}),
	Steps: []saga.Step[Data]{
		{
			Name:         "reserve stock",
			Action:       func(d Data) cqrs.Keyed { return command.ReserveStock{OrderID: d.OrderID, Lines: d.Lines} },
			Completed:    saga.Event[inventory.Reserved, Data](),
			Refused:      []saga.Refusal{saga.RefusedBy(func(e inventory.Rejected) string { return e.Reason })},
			Compensation: func(d Data) cqrs.Keyed { return command.ReleaseStock{OrderID: d.OrderID, Lines: d.Lines} },
			Compensated:  saga.Event[inventory.Released, Data](),
			Timeout:      20 * time.Second,
		},
		{
			Name: "authorise payment",
			Action: func(d Data) cqrs.Keyed {
				return command.AuthorisePayment{PaymentID: d.OrderID, OrderID: d.OrderID, Amount: d.Total, Method: d.Method}
			},
			Completed:    saga.Event[payment.Authorised, Data](),
			Refused:      []saga.Refusal{saga.RefusedBy(func(e payment.Declined) string { return e.Reason })},
			Compensation: func(d Data) cqrs.Keyed { return command.VoidPayment{PaymentID: d.OrderID, OrderID: d.OrderID} },
			Compensated:  saga.Event[payment.Voided, Data](),
			Timeout:      20 * time.Second,
		},
		{
			Name: "book shipment",
			Action: func(d Data) cqrs.Keyed {
				return command.BookShipment{ShipmentID: d.OrderID, OrderID: d.OrderID, Lines: d.Lines}
			},
			Completed:    saga.Event[shipment.Booked, Data](),
			Refused:      []saga.Refusal{saga.RefusedBy(func(e shipment.Refused) string { return e.Reason })},
			Compensation: func(d Data) cqrs.Keyed { return command.CancelShipment{ShipmentID: d.OrderID, OrderID: d.OrderID} },
			Compensated:  saga.Event[shipment.Cancelled, Data](),
			Timeout:      20 * time.Second,
			Fallback: &saga.Fallback[Data]{
				Name: "book courier",
				Action: func(d Data) cqrs.Keyed {
					return command.BookCourier{BookShipment: command.BookShipment{ShipmentID: courier(d.OrderID), OrderID: d.OrderID, Lines: d.Lines}}
				},
				Completed: saga.Event[shipment.Booked, Data](),
				Refused:   []saga.Refusal{saga.RefusedBy(func(e shipment.Refused) string { return e.Reason })},
				Compensation: func(d Data) cqrs.Keyed {
					return command.CancelCourier{CancelShipment: command.CancelShipment{ShipmentID: courier(d.OrderID), OrderID: d.OrderID}}
				},
				Compensated:  saga.Event[shipment.Cancelled, Data](),
				Timeout:      20 * time.Second,
				WhenOpen:     true,
				WhenTimedOut: true,
				WhenRefused:  []string{"the carrier has no room"},
			},
		},
		{
			Name: "capture payment",
			Action: func(d Data) cqrs.Keyed {
				return command.CapturePayment{PaymentID: d.OrderID, OrderID: d.OrderID, Amount: d.Total}
			},
			Completed: saga.Event[payment.Captured, Data](),
			Refused:   []saga.Refusal{saga.RefusedBy(func(e payment.CaptureRefused) string { return e.Reason })},
			Timeout:   10 * time.Second,
			Pivot:     true,
		},
		{
			Name:      "take stock out",
			Action:    func(d Data) cqrs.Keyed { return command.CommitStock{OrderID: d.OrderID, Lines: d.Lines} },
			Completed: saga.Event[inventory.Committed, Data](),
			Timeout:   10 * time.Second,
			Retriable: true,
		},
		{
			Name:      "confirm order",
			Action:    func(d Data) cqrs.Keyed { return command.ConfirmOrder{OrderID: d.OrderID} },
			Completed: saga.Event[order.Confirmed, Data](),
			Timeout:   10 * time.Second,
			Retriable: true,
		},
	},
	OnCompensated: saga.FinalStep[Data]{
		Name: "cancel order",
		Action: func(d Data, reason string) cqrs.Keyed {
			return command.CancelOrder{OrderID: d.OrderID, Reason: reason}
		},
		Completed: saga.Event[order.Cancelled, Data](),
		Timeout:   10 * time.Second,
	},
}

func courier(orderID string) string { return "courier-" + orderID }

// V1 is the version without the courier. Instances that have started with V1 also end with V1.
var V1 = func() saga.Definition[Data] {
	d := Definition
	d.Version, d.Steps = 1, slices.Clone(d.Steps)
	for i := range d.Steps {
		d.Steps[i].Fallback = nil
	}
	return d
}()
