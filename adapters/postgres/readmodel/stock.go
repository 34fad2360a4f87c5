package readmodel

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/app/query"
)

// Stock is a row a SKU.
type Stock struct{ db *sqlx.DB }

// NewStock makes it.
func NewStock(db *sqlx.DB) Stock { return Stock{db} }

// Change implements projection.StockRows.
func (r Stock) Change(ctx context.Context, c projection.StockChange, version int) error {
	var now int
	err := r.db.GetContext(ctx, &now, `
		WITH first AS (
			INSERT INTO stock_rows (sku, received, on_hand, reserved, version) SELECT $1, $2, $3, $4, $5 WHERE $5 = 1
			ON CONFLICT DO NOTHING RETURNING version
		), next AS (
			UPDATE stock_rows SET received = received + $2, on_hand = on_hand + $3, reserved = reserved + $4, version = $5
			WHERE sku = $1 AND version = $5 - 1 RETURNING version
		) SELECT COALESCE((SELECT version FROM first), (SELECT version FROM next), (SELECT version FROM stock_rows WHERE sku = $1), 0)`,
		c.SKU, c.Received, c.OnHand, c.Reserved, version)
	if err != nil {
		return txn.Classify(err, "change the stock of "+c.SKU)
	}
	if now < version {
		return fmt.Errorf("stock of %s: event %d came after event %d", c.SKU, version, now)
	}
	return nil
}

// BySKU implements query.StockRows.
func (r Stock) BySKU(ctx context.Context, sku string) (query.Stock, error) {
	var rows []struct {
		Received int64 `db:"received"`
		OnHand   int64 `db:"on_hand"`
		Reserved int64 `db:"reserved"`
	}
	err := r.db.SelectContext(ctx, &rows, `SELECT received, on_hand, reserved FROM stock_rows WHERE sku = $1 AND received > 0`, sku)
	if err != nil {
		return query.Stock{}, txn.Classify(err, "read the stock of "+sku)
	}
	if len(rows) == 0 {
		return query.Stock{}, fmt.Errorf("stock of %s: %w", sku, app.ErrNotFound)
	}
	return query.Stock{SKU: sku, Received: rows[0].Received, OnHand: rows[0].OnHand, Reserved: rows[0].Reserved}, nil
}
