package command

import (
	"context"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// PutBackStock puts the goods of a returned order back into stock.
type PutBackStock struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
}

// Key is the lowest SKU of the lines: see lowest.
func (c PutBackStock) Key() string { return lowest(c.Lines) }

type putBackStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h putBackStock) handle(ctx context.Context, c PutBackStock) error {
	return h.stock.UpdateAll(ctx, skus(c.Lines), func(stocks []*inventory.Stock) error {
		for i, line := range c.Lines {
			if err := stocks[i].PutBack(line.SKU, c.OrderID, line.Quantity); err != nil {
				return err
			}
		}
		return nil
	})
}
