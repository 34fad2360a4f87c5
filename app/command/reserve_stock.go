package command

import (
	"context"
	"slices"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

// ReserveStock reserves the stock for every line of an order, or for no line.
type ReserveStock struct {
	OrderID string       `json:"order_id"`
	Lines   []order.Line `json:"lines"`
}

// Key is the lowest SKU of the lines: see lowest.
func (c ReserveStock) Key() string { return lowest(c.Lines) }

type reserveStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h reserveStock) handle(ctx context.Context, c ReserveStock) error {
	return h.stock.UpdateAll(ctx, skus(c.Lines), func(stocks []*inventory.Stock) error {
		enough := true
		for i, line := range c.Lines {
			enough = enough && stocks[i].Lack(line.SKU, line.Quantity) == ""
		}
		for i, line := range c.Lines {
			// If the stock does not suffice for every line, only the lines without enough stock record a rejection.
			if enough || stocks[i].Lack(line.SKU, line.Quantity) != "" {
				if err := stocks[i].Reserve(line.SKU, c.OrderID, line.Quantity); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// lowest is the lowest SKU of these lines. As the key of their commands it makes one instance handle the commands in order. If another instance changes
// another SKU of the lines at the same time, one of the two units of work conflicts and runs again.
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
