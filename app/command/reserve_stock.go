package command

import (
	"context"
	"slices"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ReserveStock keeps every line of an order, or none.
type ReserveStock struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
}

// Key keeps what happens to a SKU in order.
func (c ReserveStock) Key() string { return lowest(c.Lines) }

type reserveStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h reserveStock) handle(ctx context.Context, c ReserveStock) error {
	return h.stock.UpdateAll(ctx, skus(c.Lines), func(stocks []*inventory.Stock) error {
		enough := true
		for i, line := range c.Lines {
			enough = enough && stocks[i].Lack(line.SKU, line.Quantity) == ""
		}
		for i, line := range c.Lines {
			// Where one line lacks, only the lacking ones say so, and no other is touched.
			if enough || stocks[i].Lack(line.SKU, line.Quantity) != "" {
				if err := stocks[i].Reserve(line.SKU, c.OrderID, line.Quantity); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// lowest is the SKU by which commands for these lines are kept in order, and come to one instance. Whoever wants its other SKUs at the
// same time as an instance elsewhere is parted from it by the store.
func lowest(lines []order.Line) string {
	if len(lines) == 0 {
		return ""
	}
	return slices.Min(skus(lines))
}

func skus(lines []order.Line) []string {
	ids := make([]string, len(lines))
	for i, line := range lines {
		ids[i] = line.SKU
	}
	return ids
}
