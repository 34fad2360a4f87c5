package query

import (
	"context"

	"github.com/millrace/millrace/kit/cqrs"
)

// Stock is what is told of a SKU. Received counts everything that ever came in.
type Stock struct {
	SKU                        string
	Received, OnHand, Reserved int64
}

// Available is what may still be reserved.
func (s Stock) Available() int64 { return s.OnHand - s.Reserved }

// StockBySKU asks for one SKU. The answer may lag behind by as long as a projection takes.
type StockBySKU struct {
	cqrs.Result[Stock]
	SKU string
}

// StockRows is the read model of stocks. The error wraps cqrs.ErrNotFound for a SKU of which nothing was ever received.
type StockRows interface {
	BySKU(ctx context.Context, sku string) (Stock, error)
}

type stockBySKU struct{ rows StockRows }

func (h stockBySKU) handle(ctx context.Context, q StockBySKU) (Stock, error) {
	return h.rows.BySKU(ctx, q.SKU)
}
