package views

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/kit/postgres/readmodel"
)

// Stock is the read model of stock. It has one row per SKU.
type Stock struct{ db *sqlx.DB }

// NewStock makes a Stock.
func NewStock(db *sqlx.DB) Stock { return Stock{db} }

var stock = readmodel.NewTable[projection.StockChange]("stock_view")

// Change implements projection.StockRows.
func (r Stock) Change(ctx context.Context, c projection.StockChange) error {
	return stock.Add(ctx, c)
}

// BySKU implements query.StockRows.
func (r Stock) BySKU(ctx context.Context, q query.StockBySKU) (query.Stock, error) {
	return readmodel.Get[query.Stock](ctx, r.db, "stock of "+q.SKU, `SELECT sku, received, on_hand, reserved FROM stock_view WHERE sku = $1 AND received > 0`, q.SKU)
}
