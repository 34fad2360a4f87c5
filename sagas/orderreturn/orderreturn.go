// Package orderreturn is the saga of a requested return: reserve replacements, wait for the parcel and for its inspection, accept the goods; then refund the
// payment, put the goods back into stock, take the replacements out and ship them, close the return. If a step fails before the pivot, the saga releases
// the replacements and rejects the return.
package orderreturn

import (
	"errors"
	"strings"
	"time"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/external"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Name is the name of the definition, and SignalInspection is the name of the inspector's signal.
const (
	Name             = "order-return"
	SignalInspection = "inspection"
)

const (
	day    = 24 * time.Hour
	atOnce = 4 // replacements that are handled at the same time
)

// Data is the state of an instance.
type Data struct {
	OrderID      string       `json:"order_id"`
	ParcelNumber string       `json:"parcel_number"`
	Lines        []order.Line `json:"lines"` // all returned lines
	Replaced     []order.Line `json:"replaced"`
	Refund       money.Money  `json:"refund"`
	Inspection   Inspection   `json:"inspection"`
	Chosen       []order.Line `json:"chosen,omitempty"` // the one line of Replaced that an item of a for-each step handles
}

// Inspection is the payload of the inspector's signal: the result of the inspection.
type Inspection struct {
	Accepted bool   `json:"accepted"`
	Damaged  bool   `json:"damaged"`
	Note     string `json:"note"`
}

// Validate returns an *aggregate.FieldError if a rejection has no note with the reason.
func (i Inspection) Validate() error {
	if !i.Accepted && strings.TrimSpace(i.Note) == "" {
		return aggregate.InField("note", errors.New("goods that are not accepted need a note with the reason"))
	}
	return nil
}

// forEach runs a step once for each replaced line.
var forEach = &saga.ForEach[Data]{
	Items:  func(d Data) int { return len(d.Replaced) },
	Item:   func(d Data, n int) Data { d.Chosen = d.Replaced[n : n+1]; return d },
	AtOnce: atOnce, Max: order.MaxLines,
}

// Definition is the current version of the saga.
var Definition = saga.Definition[Data]{
	Name:    Name,
	Version: 1,
	Start: saga.On(func(d *Data, e order.ReturnRequested) {
		// The default if nobody inspects the goods in time: the customer gets the refund, and the uninspected goods do not go back into stock.
		*d = Data{OrderID: e.OrderID, ParcelNumber: e.ParcelNumber, Refund: e.Refund, Inspection: Inspection{Accepted: true, Damaged: true}}
		for _, line := range e.Lines {
			d.Lines = append(d.Lines, line.Line)
			if line.Replace {
				d.Replaced = append(d.Replaced, line.Line)
			}
		}
	}),
	Steps: []saga.Step[Data]{
		{
			Name:         "reserve replacement",
			ForEach:      forEach,
			Action:       func(d Data) cqrs.Keyed { return command.ReserveStock{OrderID: d.OrderID, Lines: d.Chosen} },
			Completed:    saga.Event[inventory.Reserved, Data](),
			Refused:      []saga.Refusal{saga.RefusedBy(func(e inventory.Rejected) string { return e.Reason })},
			Compensation: func(d Data) cqrs.Keyed { return command.ReleaseStock{OrderID: d.OrderID, Lines: d.Chosen} },
			Compensated:  saga.Event[inventory.Released, Data](),
			Timeout:      20 * time.Second,
		},
		{
			Name: "wait for parcel",
			Await: &saga.Await[Data]{
				Received: saga.Event[external.ParcelArrived, Data](),
				Key:      func(d Data) string { return d.ParcelNumber },
				EventKey: saga.KeyOf(func(e external.ParcelArrived) string { return e.ParcelNumber }),
			},
			Timeout:  14 * day,
			Reminder: &saga.Reminder[Data]{After: 10 * day, Action: func(d Data) cqrs.Keyed { return command.RemindReturn{OrderID: d.OrderID} }},
		},
		{
			Name: "inspect goods",
			Signal: &saga.Signal[Data]{
				Name: SignalInspection, Roles: []string{"operator", "inspector"}, Optional: true,
				Received: saga.On(func(d *Data, i Inspection) { d.Inspection = i }),
			},
			Timeout: 7 * day,
		},
		{
			Name: "accept goods",
			Action: func(d Data) cqrs.Keyed {
				c := command.AcceptGoods{OrderID: d.OrderID, Damaged: d.Inspection.Damaged}
				if !d.Inspection.Accepted {
					c.Rejected = d.Inspection.Note
				}
				return c
			},
			Completed: saga.Event[order.GoodsAccepted, Data](),
			Refused:   []saga.Refusal{saga.RefusedBy(func(e order.GoodsRejected) string { return e.Reason })},
			Timeout:   10 * time.Second,
			Pivot:     true,
		},
		{Parallel: []saga.Step[Data]{
			{
				Name:   "refund payment",
				SkipIf: func(d Data) bool { return d.Refund.Amount == 0 },
				Action: func(d Data) cqrs.Keyed {
					return command.RefundPayment{PaymentID: d.OrderID, OrderID: d.OrderID, Amount: d.Refund}
				},
				Completed: saga.Event[payment.Refunded, Data](),
				Refused:   []saga.Refusal{saga.RefusedBy(func(e payment.RefundRefused) string { return e.Reason })},
				Timeout:   20 * time.Second,
				Retriable: true,
			},
			{
				Name:      "put goods back",
				SkipIf:    func(d Data) bool { return d.Inspection.Damaged },
				Action:    func(d Data) cqrs.Keyed { return command.PutBackStock{OrderID: d.OrderID, Lines: d.Lines} },
				Completed: saga.Event[inventory.PutBack, Data](),
				Timeout:   10 * time.Second,
				Retriable: true,
			},
			{
				Name:      "take replacements out",
				SkipIf:    func(d Data) bool { return len(d.Replaced) == 0 },
				Action:    func(d Data) cqrs.Keyed { return command.CommitStock{OrderID: d.OrderID, Lines: d.Replaced} },
				Completed: saga.Event[inventory.Committed, Data](),
				Timeout:   10 * time.Second,
				Retriable: true,
			},
		}},
		{
			Name:    "ship replacement",
			ForEach: forEach,
			Action: func(d Data) cqrs.Keyed {
				return command.BookShipment{ShipmentID: replacement(d.OrderID, d.Chosen[0].SKU), OrderID: d.OrderID, Lines: d.Chosen}
			},
			Completed: saga.Event[shipment.Booked, Data](),
			Refused:   []saga.Refusal{saga.RefusedBy(func(e shipment.Refused) string { return e.Reason })},
			Timeout:   20 * time.Second,
			Retriable: true,
		},
		{
			Name:      "close return",
			Action:    func(d Data) cqrs.Keyed { return command.CloseReturn{OrderID: d.OrderID} },
			Completed: saga.Event[order.Returned, Data](),
			Timeout:   10 * time.Second,
			Retriable: true,
		},
	},
	OnCompensated: saga.FinalStep[Data]{
		Name: "reject return",
		Action: func(d Data, reason string) cqrs.Keyed {
			return command.RejectReturn{OrderID: d.OrderID, Reason: reason}
		},
		Completed: saga.Event[order.ReturnRejected, Data](),
		Timeout:   10 * time.Second,
	},
}

// replacement is the id of the shipment of a replacement.
func replacement(orderID, sku string) string { return "replacement-" + orderID + "-" + sku }
