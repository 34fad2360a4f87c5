package postgres_test

import (
	"context"
	"errors"
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

// BenchmarkBacklog handles what has queued up while no message came: each message changes one or two of three aggregates, 64 messages of a key
// are in flight at once, and the keys are handled by one instance or by two, which then change one aggregate both. A message that fails before
// the messages before it have ended runs again after them, as in the middleware.
func BenchmarkBacklog(b *testing.B) {
	for _, instances := range []int{1, 2} {
		b.Run(fmt.Sprintf("%d instances", instances), func(b *testing.B) {
			db, _ := kittest.Database(b)
			type instance struct {
				uow   *postgres.UnitOfWork
				stock *eventstore.Repository[*inventory.Stock, inventory.Event]
			}
			all := make([]instance, instances)
			for i := range all {
				store := eventstore.New(db, inventory.Types)
				all[i].stock = eventstore.NewRepository(store, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: 100, Contended: true})
				all[i].uow = postgres.NewUnitOfWork(db, store, &bus{publisher: outbox.NewPublisher(1_000_000, kittest.Insert)}, time.Now)
			}
			orders := [][]string{{"MUG"}, {"MUG", "TEE"}, {"CAP"}, {"CAP", "MUG"}} // by their keys: the first SKU
			for _, sku := range []string{"MUG", "TEE", "CAP"} {
				require.NoError(b, all[0].uow.Within(b.Context(), func(ctx context.Context) error {
					return all[0].stock.Update(ctx, sku, func(s *inventory.Stock) error { return s.Receive(sku, 1_000_000_000) })
				}))
			}
			var works, early, failed atomic.Int64
			b.ResetTimer()
			var keys sync.WaitGroup
			for k, key := range []string{"MUG", "CAP"} {
				at := all[k%instances]
				keys.Go(func() {
					var last *cqrs.Turn
					var running sync.WaitGroup
					inFlight := make(chan struct{}, 64)
					for n := range b.N {
						skus := orders[n%len(orders)]
						if skus[0] != key {
							continue
						}
						inFlight <- struct{}{}
						turn := cqrs.NewTurn(last)
						last = turn
						running.Go(func() {
							defer func() { turn.Done(); <-inFlight }()
							id := uuid.NewString()
							for {
								isEarly := turn.Look()
								_, err := at.uow.Handle(cqrs.WithTurn(b.Context(), turn), command(id, "", ""), func(ctx context.Context) error {
									works.Add(1)
									return at.stock.UpdateAll(ctx, skus, func(stock []*inventory.Stock) (err error) {
										for i, s := range stock {
											err = errors.Join(err, s.Reserve(skus[i], id, 1), s.Commit(skus[i], id))
										}
										return err
									})
								})
								switch {
								case err == nil:
									return
								case isEarly:
									early.Add(1)
									_ = turn.Wait(b.Context())
								default:
									failed.Add(1)
									if cqrs.KindOf(err) != cqrs.KindConflict {
										b.Error(err)
										return
									}
								}
							}
						})
					}
					running.Wait()
				})
			}
			keys.Wait()
			b.StopTimer()
			var transactions int
			require.NoError(b, db.Get(&transactions, `SELECT count(DISTINCT xmin::text) FROM events`))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			b.ReportMetric(float64(works.Load())/float64(b.N), "attempts/message")
			b.ReportMetric(float64(early.Load())/float64(b.N), "early/message")
			b.ReportMetric(float64(failed.Load())/float64(b.N), "failed/message")
			b.ReportMetric(float64(b.N)/float64(transactions), "messages/commit")
			b.ReportMetric(0, "ns/op")
		})
	}
}
