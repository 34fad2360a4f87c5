package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
)

// BenchmarkCommit handles messages by 64 workers, each with an event and an outbox row: of streams of their own, of one stream, and of streams
// of their own beside a worker whose inbox row is locked; and by one worker. ADR 22 compares it with the commit before.
func BenchmarkCommit(b *testing.B) {
	for _, name := range []string{"streams", "one stream", "one worker", "beside a locked row"} {
		b.Run(name, func(b *testing.B) {
			w := benchEnvironment(b)
			ctx, cancel := context.WithCancel(context.Background())
			var stuck, working sync.WaitGroup
			if name == "beside a locked row" {
				tx, err := w.db.Begin()
				require.NoError(b, err)
				defer tx.Rollback()
				_, err = tx.Exec(`INSERT INTO inbox (consumer, message_id, outcome) VALUES ('c', 'locked', 'done')`)
				require.NoError(b, err)
				stuck.Go(func() {
					for ctx.Err() == nil {
						_, _ = w.uow.Handle(ctx, command("locked", "", ""), w.receiveOf("locked", 1))
					}
				})
			}
			var n, failed atomic.Int64
			b.ResetTimer()
			workers := 64
			if name == "one worker" {
				workers = 1
			}
			for range workers {
				working.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						sku := fmt.Sprint("SKU-", i)
						if name == "one stream" {
							sku = "A"
						}
						for attempt := 0; ; attempt++ {
							_, err := w.uow.Handle(ctx, command(fmt.Sprint("m-", i), "", cqrs.Branch("")), w.receiveOf(sku, 1))
							if err == nil {
								break
							}
							failed.Add(1)
						}
					}
				})
			}
			working.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "units/s")
			b.ReportMetric(float64(failed.Load()), "failed")
			cancel()
			stuck.Wait()
		})
	}
}

func benchEnvironment(b *testing.B) *environment {
	b.Helper()
	_, dsn, done := kittest.ExampleDatabase()
	b.Cleanup(done)
	db, err := postgres.Open(dsn, 40)
	require.NoError(b, err)
	b.Cleanup(func() { _ = db.Close() })
	return (&environment{db: db}).another()
}
