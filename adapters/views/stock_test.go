package views_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/views"
	"github.com/millrace/millrace/app/projection"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/txn"
	"github.com/millrace/millrace/migrations"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// A rebuild catches up while the service runs, and partitions move to other instances, so two consumers may write the same events at the same time. Each event
// counts once.
func TestStockIsCountedOnce(t *testing.T) {
	db, _ := kittest.Database(t, migrations.Files)
	stock := views.NewStock(db)
	apply := func(sku string, first, last int) error {
		for {
			ctx, unit := txn.NewUnit(context.Background(), db)
			for version := first; version <= last; version++ {
				if err := stock.Change(ctx, projection.StockChange{SKU: sku, Received: 1, OnHand: 1, Reserved: 1, Version: version}); err != nil {
					return err
				}
			}
			if err := txn.Commit(ctx, db, []*txn.Unit{unit}); cqrs.KindOf(err) != cqrs.KindConflict {
				return err
			}
		}
	}
	const rounds = 50
	for round := range rounds {
		sku := fmt.Sprint("SKU-", round)
		for step := range 4 { // the first step creates the row
			var both sync.WaitGroup
			for range 3 {
				both.Go(func() {
					if err := apply(sku, 3*step+1, 3*step+3); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
		}
		s, err := stock.BySKU(t.Context(), query.StockBySKU{SKU: sku})
		require.NoError(t, err)
		require.EqualValues(t, 12, s.Reserved, sku)
	}
	require.ErrorContains(t, apply("SKU-0", 14, 14), "event 14 came after event 12")
}
