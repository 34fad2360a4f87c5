package command

import (
	"context"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
)

// BookCourier books a shipment with the second carrier, the courier.
type BookCourier struct {
	ShipmentID string       `json:"shipment_id"`
	OrderID    string       `json:"order_id"`
	Lines      []order.Line `json:"lines"`
}

// Key keeps the commands of a shipment in order.
func (c BookCourier) Key() string { return c.ShipmentID }

// CancelCourier compensates BookCourier.
type CancelCourier struct {
	ShipmentID string `json:"shipment_id"`
	OrderID    string `json:"order_id"`
}

// Key keeps the commands of a shipment in order.
func (c CancelCourier) Key() string { return c.ShipmentID }

type courier struct {
	shipments cqrs.Store[*shipment.Shipment]
	carrier   Carrier
}

func (h courier) call(ctx context.Context, c BookCourier) (cqrs.CallResult, error) {
	return bookShipment(h).call(ctx, BookShipment(c))
}

func (h courier) record(ctx context.Context, c BookCourier, a cqrs.CallResult) error {
	return bookShipment(h).record(ctx, BookShipment(c), a)
}

func (h courier) callCancel(ctx context.Context, c CancelCourier) (struct{}, error) {
	return cancelShipment(h).call(ctx, CancelShipment(c))
}

func (h courier) recordCancel(ctx context.Context, c CancelCourier, none struct{}) error {
	return cancelShipment(h).record(ctx, CancelShipment(c), none)
}
