package command

import (
	"context"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ReleaseStock compensates ReserveStock.
type ReleaseStock struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
}

// Key is the lowest SKU of the lines: see lowest.
func (c ReleaseStock) Key() string { return lowest(c.Lines) }

type releaseStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h releaseStock) handle(ctx context.Context, c ReleaseStock) error {
	return updateEach(ctx, h.stock, c.Lines, func(s *inventory.Stock, sku string) error { return s.Release(sku, c.OrderID) })
}
