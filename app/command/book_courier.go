package command

import (
	"context"

	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
)

// BookCourier books a shipment with the courier, the second carrier.
type BookCourier struct{ BookShipment }

// CancelCourier compensates BookCourier.
type CancelCourier struct{ CancelShipment }

type courier struct {
	shipments cqrs.Store[*shipment.Shipment]
	carrier   Carrier
}

func (h courier) call(ctx context.Context, c BookCourier) (cqrs.CallResult, error) {
	return bookShipment(h).call(ctx, c.BookShipment)
}

func (h courier) record(ctx context.Context, c BookCourier, a cqrs.CallResult) error {
	return bookShipment(h).record(ctx, c.BookShipment, a)
}

func (h courier) callCancel(ctx context.Context, c CancelCourier) (struct{}, error) {
	return cancelShipment(h).call(ctx, c.CancelShipment)
}

func (h courier) recordCancel(ctx context.Context, c CancelCourier, none struct{}) error {
	return cancelShipment(h).record(ctx, c.CancelShipment, none)
}
