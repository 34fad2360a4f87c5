package query

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
)

// Stock is the stock of a SKU in the form that queries return. Received is the sum of all receipts.
type Stock struct {
	SKU                        string
	Received, OnHand, Reserved int64
}

// Available is the quantity that can be reserved.
func (s Stock) Available() int64 { return s.OnHand - s.Reserved }

// StockBySKU reads the stock of one SKU. The result lags behind the events by the time that the projection needs.
type StockBySKU struct {
	cqrs.Result[Stock]
	SKU string
}

// StockRows is the read model of stock. The error of BySKU wraps cqrs.ErrNotFound for a SKU without receipts.
type StockRows interface {
	BySKU(ctx context.Context, q StockBySKU) (Stock, error)
}
