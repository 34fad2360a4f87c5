package projection

import (
	"context"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/kit/cqrs"
)

// StockChange is the change that an event makes to the row of a SKU.
type StockChange struct {
	SKU                        string
	Received, OnHand, Reserved int64
	Version                    int // of the SKU's stream
}

// StockRows stores the read model of stock, with one row per SKU.
type StockRows interface {
	// Change applies a change, unless its version was already applied. It returns an error if an earlier version is missing.
	Change(ctx context.Context, c StockChange) error
}

// Stock is the projection that builds the read model of stock.
func Stock(rows StockRows) cqrs.Projection {
	return cqrs.Projection{Name: "stock", Category: inventory.Category, On: []cqrs.EventHandler{
		cqrs.On(func(ctx context.Context, e inventory.Received, m cqrs.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Received: e.Quantity, OnHand: e.Quantity, Version: m.Version})
		}),
		cqrs.On(func(ctx context.Context, e inventory.Reserved, m cqrs.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Reserved: e.Quantity, Version: m.Version})
		}),
		cqrs.On(func(ctx context.Context, e inventory.Rejected, m cqrs.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Version: m.Version})
		}),
		cqrs.On(func(ctx context.Context, e inventory.Released, m cqrs.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Reserved: -e.Quantity, Version: m.Version})
		}),
		cqrs.On(func(ctx context.Context, e inventory.Committed, m cqrs.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, OnHand: -e.Quantity, Reserved: -e.Quantity, Version: m.Version})
		}),
		cqrs.On(func(ctx context.Context, e inventory.PutBack, m cqrs.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, OnHand: e.Quantity, Version: m.Version})
		}),
	}}
}
