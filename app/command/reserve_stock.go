package command

import (
	"context"
	"slices"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ReserveStock reserves every line of an order, or none.
type ReserveStock struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
}

// Key keeps the commands of a SKU in order.
func (c ReserveStock) Key() string { return lowest(c.Lines) }

type reserveStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h reserveStock) handle(ctx context.Context, c ReserveStock) error {
	return h.stock.UpdateAll(ctx, skus(c.Lines), func(stocks []*inventory.Stock) error {
		enough := true
		for i, line := range c.Lines {
			enough = enough && stocks[i].Lack(line.SKU, line.Quantity) == ""
		}
		for i, line := range c.Lines {
			// If the stock of one line does not suffice, only such lines record a rejection.
			if enough || stocks[i].Lack(line.SKU, line.Quantity) != "" {
				if err := stocks[i].Reserve(line.SKU, c.OrderID, line.Quantity); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// lowest is the SKU that is the key of commands for these lines: it keeps them in order and on one instance. If two instances change the
// other SKUs of these lines at the same time, one of the two units of work conflicts and runs again.
func lowest(lines []order.Line) string {
	if len(lines) == 0 {
		return ""
	}
	return slices.Min(skus(lines))
}

// updateEach changes the stock of each line.
func updateEach(ctx context.Context, stock cqrs.Store[*inventory.Stock], lines []order.Line, change func(s *inventory.Stock, sku string) error) error {
	return stock.UpdateAll(ctx, skus(lines), func(stocks []*inventory.Stock) error {
		for i, line := range lines {
			if err := change(stocks[i], line.SKU); err != nil {
				return err
			}
		}
		return nil
	})
}

func skus(lines []order.Line) []string {
	ids := make([]string, len(lines))
	for i, line := range lines {
		ids[i] = line.SKU
	}
	return ids
}
