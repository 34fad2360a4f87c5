// Package command is what the service can be told to do: one file a command, all of them listed here.
package command

import (
	"slices"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
)

// Deps is what the handlers need.
type Deps struct {
	Orders    app.Store[*order.Order]
	Stock     app.Store[*inventory.Stock]
	Payments  app.Store[*payment.Payment]
	Shipments app.Store[*shipment.Shipment]
	Provider  Provider
	Carrier   Carrier
	Courier   Carrier // stands in for the first
}

// Couriers is a destination of its own: what asks the courier does not wait for the carrier, nor behind its breaker.
const Couriers = "couriers"

// All lists every command by its destination. Names stand on topics and never change.
func All(d Deps) []app.Handler {
	return slices.Concat[[]app.Handler](
		app.For(order.Category,
			app.Handle("PlaceOrder", placeOrder{d.Orders}.handle),
			app.Handle("ConfirmOrder", confirmOrder{d.Orders}.handle),
			app.Handle("CancelOrder", cancelOrder{d.Orders}.handle),
		),
		app.For(inventory.Category,
			app.Handle("ReceiveStock", receiveStock{d.Stock}.handle),
			app.Handle("ReserveStock", reserveStock{d.Stock}.handle),
			app.Handle("ReleaseStock", releaseStock{d.Stock}.handle),
			app.Handle("CommitStock", commitStock{d.Stock}.handle),
		),
		app.For(payment.Category,
			app.Ask("AuthorisePayment", authorisePayment{d.Payments, d.Provider}.ask, authorisePayment{d.Payments, d.Provider}.record),
			app.Ask("VoidPayment", voidPayment{d.Payments, d.Provider}.ask, voidPayment{d.Payments, d.Provider}.record),
			app.Ask("CapturePayment", capturePayment{d.Payments, d.Provider}.ask, capturePayment{d.Payments, d.Provider}.record),
		),
		app.For(shipment.Category,
			app.Ask("BookShipment", bookShipment{d.Shipments, d.Carrier}.ask, bookShipment{d.Shipments, d.Carrier}.record),
			app.Ask("CancelShipment", cancelShipment{d.Shipments, d.Carrier}.ask, cancelShipment{d.Shipments, d.Carrier}.record),
		),
		app.Through(Couriers, app.For(shipment.Category,
			app.Ask("BookCourier", courier{d.Shipments, d.Courier}.ask, courier{d.Shipments, d.Courier}.record),
			app.Ask("CancelCourier", courier{d.Shipments, d.Courier}.askCancel, courier{d.Shipments, d.Courier}.recordCancel),
		)),
	)
}
