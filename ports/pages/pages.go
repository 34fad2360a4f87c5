// Package pages has the pages of this service, one file per page. The kit's package opsui serves them together with its own pages.
package pages

import (
	"context"
	"embed"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/fulfilment"
	"github.com/millrace/millrace/sagas/orderreturn"
)

//go:embed templates
var files embed.FS

// Pages has the data and the functions that the pages use.
type Pages struct {
	Commands cqrs.Commands
	Queries  *cqrs.Queries
	Sagas    []*saga.Saga // the registered definitions

	// Cancel requests the compensation of an order's saga.
	Cancel func(ctx context.Context, orderID string) error

	// ParcelArrived has a returned parcel arrive at the warehouse. Nil: the sandbox does not run.
	ParcelArrived func(ctx context.Context, number string) error

	// Counts counts the orders of each status, up to a limit.
	Counts func(ctx context.Context, limit int) (map[order.Status]int, error)

	// Sandbox tells whether the sandbox runs: then the form for orders chooses their outcome.
	Sandbox bool
}

// Extension returns the pages for the kit's UI.
func (p Pages) Extension() opsui.Extension {
	return opsui.Extension{
		Templates: files,
		Pages: []opsui.Page{
			p.orders(), p.order(),
		},
		Actions: map[string]opsui.Action{
			"/ui/orders":             {Do: p.placeOrder},
			"/ui/orders/{id}/cancel": p.cancelOrder(),
			"/ui/orders/{id}/return": {Do: p.returnOrder},
			"/ui/orders/{id}/parcel": {Do: p.arriveParcel},
		},
		Subject: subject,
		Counts:  p.counts,
		Statuses: map[string]opsui.Tone{
			string(order.Pending): opsui.ToneActive, string(order.IsConfirmed): opsui.ToneGood, string(order.IsCancelled): opsui.ToneUndone,
			string(order.ReturnIsRequested): opsui.ToneActive, string(order.ReturnIsAccepted): opsui.ToneActive, string(order.ReturnIsClosed): opsui.ToneGood, string(order.ReturnIsRejected): opsui.ToneBad,
		},
	}
}

// subject links a saga to its order.
func subject(state saga.State) (noun, address string) {
	if state.Definition == fulfilment.Name || state.Definition == orderreturn.Name {
		return "order", "/ui/orders/" + state.Subject
	}
	return "", ""
}

// counts are the figures of the overview.
func (p Pages) counts(ctx context.Context) ([]opsui.Group, error) {
	orders, err := p.Counts(ctx, opsui.MaxCount+1)
	return []opsui.Group{opsui.NewGroup("Orders", "/ui/orders", orders, statuses...)}, err
}
