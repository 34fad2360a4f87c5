package views

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Stock has one row per SKU.
type Stock struct{ db *sqlx.DB }

// NewStock makes a Stock.
func NewStock(db *sqlx.DB) Stock { return Stock{db} }

// Change implements projection.StockRows.
func (r Stock) Change(ctx context.Context, c projection.StockChange, version int) error {
	return changeStock.Write(ctx, stockChange{c, version})
}

type stockChange struct {
	projection.StockChange
	version int
}

// changeStock applies the changes of one commit, those of one SKU together. A change that was applied before is skipped, and a gap in the
// versions is an error. Rows are locked in the order of their SKUs before they are compared, and a row that another unit of work has just
// inserted is a conflict. So two units that apply the same events, such as a rebuild and a consumer, apply them one after the other.
var changeStock = &txn.Statement[stockChange]{
	Doing: "change the stock", Rank: 52, Locks: func(c stockChange) string { return c.SKU },
	Query: func(rows []stockChange) (string, []any, error) {
		n := len(rows)
		skus, received, onHand, reserved, versions := make([]string, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int32, n)
		for i, r := range rows {
			skus[i], received[i], onHand[i], reserved[i], versions[i] = r.SKU, r.Received, r.OnHand, r.Reserved, int32(r.version)
		}
		return `
			WITH e AS (
				SELECT DISTINCT ON (sku, version) * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[]) AS e(sku, received, on_hand, reserved, version)
			), there AS MATERIALIZED (
				SELECT s.* FROM (SELECT DISTINCT sku FROM e ORDER BY sku) w
				CROSS JOIN LATERAL (SELECT sku, version FROM stock_view WHERE sku = w.sku OFFSET 0 FOR UPDATE) s
			), fresh AS MATERIALIZED (
				SELECT e.sku, sum(e.received) AS received, sum(e.on_hand) AS on_hand, sum(e.reserved) AS reserved, max(e.version) AS version,
					min(s.version) IS NULL AS first, demand(max(e.version) = COALESCE(min(s.version), 0) + count(*), 'MR001',
						'stock of ' || e.sku || ': event ' || min(e.version) || ' came after event ' || COALESCE(min(s.version), 0))
				FROM e LEFT JOIN there s ON s.sku = e.sku WHERE e.version > COALESCE(s.version, 0) GROUP BY e.sku ORDER BY e.sku
			), begun AS (
				INSERT INTO stock_view (sku, received, on_hand, reserved, version) SELECT sku, received, on_hand, reserved, version FROM fresh WHERE first
				ON CONFLICT DO NOTHING RETURNING sku
			), changed AS (
				INSERT INTO stock_view AS s (sku, received, on_hand, reserved, version) SELECT sku, received, on_hand, reserved, version FROM fresh WHERE NOT first
				ON CONFLICT (sku) DO UPDATE SET received = s.received + excluded.received, on_hand = s.on_hand + excluded.on_hand,
					reserved = s.reserved + excluded.reserved, version = excluded.version)
			SELECT demand((SELECT count(*) FROM begun) = (SELECT count(*) FROM fresh WHERE first), 'MR002', 'stock has changed')`,
			[]any{skus, received, onHand, reserved, versions}, nil
	},
}

// BySKU implements query.StockRows.
func (r Stock) BySKU(ctx context.Context, sku string) (query.Stock, error) {
	var rows []struct {
		Received int64 `db:"received"`
		OnHand   int64 `db:"on_hand"`
		Reserved int64 `db:"reserved"`
	}
	err := r.db.SelectContext(ctx, &rows, `SELECT received, on_hand, reserved FROM stock_view WHERE sku = $1 AND received > 0`, sku)
	if err != nil {
		return query.Stock{}, txn.Classify(err, "read the stock of "+sku)
	}
	if len(rows) == 0 {
		return query.Stock{}, fmt.Errorf("stock of %s: %w", sku, cqrs.ErrNotFound)
	}
	return query.Stock{SKU: sku, Received: rows[0].Received, OnHand: rows[0].OnHand, Reserved: rows[0].Reserved}, nil
}
