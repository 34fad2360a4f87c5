// Package command has the commands of the service and their handlers: one file per command. All lists them.
package command

import (
	"slices"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
)

// Deps has the dependencies of the handlers.
type Deps struct {
	Orders    cqrs.Store[*order.Order]
	Stock     cqrs.Store[*inventory.Stock]
	Payments  cqrs.Store[*payment.Payment]
	Shipments cqrs.Store[*shipment.Shipment]
	Provider  Provider
	Carrier   Carrier
	Courier   Carrier // for the fallback
}

// Couriers is a destination of its own, so that calls of the courier do not wait for the carrier or behind its breaker.
const Couriers = "couriers"

// All lists every command by its destination. The names of commands are stored, so they never change.
func All(d Deps) []cqrs.Handler {
	return slices.Concat[[]cqrs.Handler](
		cqrs.ForAggregate(order.Category,
			cqrs.Handle("PlaceOrder", placeOrder{d.Orders}.handle),
			cqrs.Handle("ConfirmOrder", confirmOrder{d.Orders}.handle),
			cqrs.Handle("CancelOrder", cancelOrder{d.Orders}.handle),
			cqrs.Handle("RequestReturn", requestReturn{d.Orders}.handle),
			cqrs.Handle("RemindReturn", remindReturn{d.Orders}.handle),
			cqrs.Handle("AcceptGoods", acceptGoods{d.Orders}.handle),
			cqrs.Handle("CloseReturn", closeReturn{d.Orders}.handle),
			cqrs.Handle("RejectReturn", rejectReturn{d.Orders}.handle),
		),
		cqrs.ForAggregate(inventory.Category,
			cqrs.Handle("ReceiveStock", receiveStock{d.Stock}.handle),
			cqrs.Handle("ReserveStock", reserveStock{d.Stock}.handle),
			cqrs.Handle("ReleaseStock", releaseStock{d.Stock}.handle),
			cqrs.Handle("CommitStock", commitStock{d.Stock}.handle),
			cqrs.Handle("PutBackStock", putBackStock{d.Stock}.handle),
		),
		cqrs.ForAggregate(payment.Category,
			cqrs.CallThenRecord("AuthorisePayment", authorisePayment{d.Payments, d.Provider}.call, authorisePayment{d.Payments, d.Provider}.record),
			cqrs.CallThenRecord("VoidPayment", voidPayment{d.Payments, d.Provider}.call, voidPayment{d.Payments, d.Provider}.record),
			cqrs.CallThenRecord("CapturePayment", capturePayment{d.Payments, d.Provider}.call, capturePayment{d.Payments, d.Provider}.record),
			cqrs.CallThenRecord("RefundPayment", refundPayment{d.Payments, d.Provider}.call, refundPayment{d.Payments, d.Provider}.record),
		),
		cqrs.ForAggregate(shipment.Category,
			cqrs.CallThenRecord("BookShipment", bookShipment{d.Shipments, d.Carrier}.call, bookShipment{d.Shipments, d.Carrier}.record),
			cqrs.CallThenRecord("CancelShipment", cancelShipment{d.Shipments, d.Carrier}.call, cancelShipment{d.Shipments, d.Carrier}.record),
		),
		cqrs.WithDestination(Couriers, cqrs.ForAggregate(shipment.Category,
			cqrs.CallThenRecord("BookCourier", courier{d.Shipments, d.Courier}.call, courier{d.Shipments, d.Courier}.record),
			cqrs.CallThenRecord("CancelCourier", courier{d.Shipments, d.Courier}.callCancel, courier{d.Shipments, d.Courier}.recordCancel),
		)),
	)
}
