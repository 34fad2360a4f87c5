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

// Key keeps the commands of a SKU in order.
func (c CommitStock) Key() string { return lowest(c.Lines) }

type commitStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h commitStock) handle(ctx context.Context, c CommitStock) error {
	return h.stock.UpdateAll(ctx, skus(c.Lines), func(stocks []*inventory.Stock) error {
		for i, line := range c.Lines {
			if err := stocks[i].Commit(line.SKU, c.OrderID); err != nil {
				return err
			}
		}
		return nil
	})
}
