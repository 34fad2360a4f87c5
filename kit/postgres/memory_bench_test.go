package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// BenchmarkStock reserves and commits stock by messages whose key is the SKU, 64 at a time: two messages an order.
func BenchmarkStock(b *testing.B) {
	for _, c := range []struct{ skus, open int }{{1000, 0}, {1, 0}, {1, 1000}} {
		b.Run(fmt.Sprintf("%d SKUs, %d reservations open", c.skus, c.open), func(b *testing.B) {
			db, _ := kittest.Database(b)
			store := eventstore.New(db, inventory.Types)
			stock := eventstore.NewRepository(store, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: 100, Contended: true})
			uow := postgres.NewUnitOfWork(db, store, &bus{publisher: outbox.NewPublisher(1_000_000, kittest.Insert)}, time.Now)
			var mu sync.Mutex
			last := map[string]*cqrs.Turn{}
			handle := func(sku string, decide func(*inventory.Stock) error) {
				mu.Lock()
				turn := cqrs.NewTurn(last[sku])
				last[sku] = turn
				mu.Unlock()
				defer turn.Done()
				turn.Look()
				outcome, err := uow.Handle(cqrs.WithTurn(context.Background(), turn), command(uuid.NewString(), "", ""), func(ctx context.Context) error { return stock.Update(ctx, sku, decide) })
				if err != nil || outcome != cqrs.Processed {
					b.Error(outcome, err)
				}
			}
			for n := range c.skus {
				sku := fmt.Sprint("SKU-", n)
				handle(sku, func(s *inventory.Stock) error { return s.Receive(sku, 1_000_000_000) })
				handle(sku, func(s *inventory.Stock) error {
					for range c.open {
						require.NoError(b, s.Reserve(sku, uuid.NewString(), 1))
					}
					return nil
				})
			}
			var next atomic.Int64
			b.SetParallelism(32) // times two CPUs
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					sku, order := fmt.Sprint("SKU-", int(next.Add(1))%c.skus), uuid.NewString()
					handle(sku, func(s *inventory.Stock) error { return s.Reserve(sku, order, 1) })
					handle(sku, func(s *inventory.Stock) error { return s.Commit(sku, order) })
				}
			})
			b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "units/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
