package command

import (
	"context"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// CommitStock ships the reserved goods of an order.
type CommitStock struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
}

// Key is the lowest SKU of the lines: see lowest.
func (c CommitStock) Key() string { return lowest(c.Lines) }

type commitStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h commitStock) handle(ctx context.Context, c CommitStock) error {
	return updateEach(ctx, h.stock, c.Lines, func(s *inventory.Stock, sku string) error { return s.Commit(sku, c.OrderID) })
}
