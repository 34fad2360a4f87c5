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

// Key keeps the commands of a SKU in order.
func (c ReleaseStock) Key() string { return lowest(c.Lines) }

type releaseStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h releaseStock) handle(ctx context.Context, c ReleaseStock) error {
	return h.stock.UpdateAll(ctx, skus(c.Lines), func(stocks []*inventory.Stock) error {
		for i, line := range c.Lines {
			if err := stocks[i].Release(line.SKU, c.OrderID); err != nil {
				return err
			}
		}
		return nil
	})
}
