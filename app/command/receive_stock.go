package command

import (
	"context"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/kit/cqrs"
)

// ReceiveStock adds goods to the stock.
type ReceiveStock struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Key is the SKU: receipts of one SKU are handled in order.
func (c ReceiveStock) Key() string { return c.SKU }

type receiveStock struct{ stock cqrs.Store[*inventory.Stock] }

func (h receiveStock) handle(ctx context.Context, c ReceiveStock) error {
	return h.stock.Update(ctx, c.SKU, func(s *inventory.Stock) error { return s.Receive(c.SKU, c.Quantity) })
}
