package projection

import (
	"context"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/inventory"
)

// StockChange is what an event adds to the row of a SKU.
type StockChange struct {
	SKU                        string
	Received, OnHand, Reserved int64
}

// StockRows keeps a row a SKU.
type StockRows interface {
	// Change applies the event with this version of the SKU's stream, unless it is applied already. A gap before it
	// is an error.
	Change(ctx context.Context, c StockChange, version int) error
}

// Stock counts what there is of each SKU.
func Stock(rows StockRows) app.Projection {
	return app.Projection{Name: "stock", Category: inventory.Category, On: []app.EventHandler{
		app.On(func(ctx context.Context, e inventory.Received, m app.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Received: e.Quantity, OnHand: e.Quantity}, m.Version)
		}),
		app.On(func(ctx context.Context, e inventory.Reserved, m app.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Reserved: e.Quantity}, m.Version)
		}),
		app.On(func(ctx context.Context, e inventory.Rejected, m app.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU}, m.Version)
		}),
		app.On(func(ctx context.Context, e inventory.Released, m app.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, Reserved: -e.Quantity}, m.Version)
		}),
		app.On(func(ctx context.Context, e inventory.Committed, m app.Meta) error {
			return rows.Change(ctx, StockChange{SKU: e.SKU, OnHand: -e.Quantity, Reserved: -e.Quantity}, m.Version)
		}),
	}}
}
