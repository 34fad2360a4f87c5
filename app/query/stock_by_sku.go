package query

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
)

// Stock is the stock of a SKU for clients. Received counts everything that was ever received.
type Stock struct {
	SKU                        string
	Received, OnHand, Reserved int64
}

// Available can be reserved.
func (s Stock) Available() int64 { return s.OnHand - s.Reserved }

// StockBySKU reads the stock of one SKU. The result may lag behind by as long as the projection takes.
type StockBySKU struct {
	cqrs.Result[Stock]
	SKU string
}

// StockRows is the read model of stocks. The error wraps cqrs.ErrNotFound for a SKU that was never received.
type StockRows interface {
	BySKU(ctx context.Context, q StockBySKU) (Stock, error)
}
