package postgres_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/internal/inventory"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
)

// badText is text that PostgreSQL cannot hold or index. It is random where it can be, because an index compresses what repeats.
func badText() map[string]string {
	var large strings.Builder
	for large.Len() < 6000 {
		large.WriteString(rand.Text())
	}
	return map[string]string{"hostile bytes": "a\xffb", "NUL": "a\x00b", "too large": large.String()}
}

// Look-ups of many callers are gathered into one query. Two clients that send an Idempotency-Key of bytes that are not UTF-8 made 956 of
// 2,054 good requests fail; a record with such a key made 49 of 49 other messages fail. (Keys of records are bytes now: see keyqueue.)
func TestBatchedLookUpsIsolateABadElement(t *testing.T) {
	lookUps := map[string]func(t *testing.T) func(ctx context.Context, text string) error{
		"idempotency keys": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newEnvironment(t)
			keys := postgres.NewIdempotency(w.db)
			return func(ctx context.Context, text string) error {
				return w.uow.Within(ctx, func(ctx context.Context) error {
					_, err := keys.Find(ctx, cqrs.IdempotencyKey{Owner: "customer", Scope: "POST /", Key: text}, []byte("hash"))
					return err
				})
			}
		},
		"inbox": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newEnvironment(t)
			return func(ctx context.Context, text string) error {
				_, err := w.uow.Handle(ctx, command(text, text, cqrs.BranchCompensation), func(context.Context) error { return nil })
				return err
			}
		},
		"event loads": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newEnvironment(t)
			return func(ctx context.Context, text string) error { return w.uow.Within(ctx, w.receiveOf(text, 1)) }
		},
	}
	for name, lookUp := range lookUps {
		for kind, bad := range badText() {
			t.Run(name+"/"+kind, func(t *testing.T) {
				call := lookUp(t)
				done := make(chan struct{})
				var hostile, good sync.WaitGroup
				var refused atomic.Int32
				for range 2 {
					hostile.Go(func() {
						for {
							select {
							case <-done:
								return
							default:
							}
							if err := call(t.Context(), bad); cqrs.KindOf(err) != cqrs.KindPermanent {
								t.Errorf("the bad element: %v", err)
								return
							}
							refused.Add(1)
						}
					})
				}
				for n := range 49 {
					good.Go(func() {
						for round := range 10 {
							if err := call(t.Context(), fmt.Sprintf("good-%d-%d", n, round)); err != nil {
								t.Errorf("a good element: %v", err)
							}
						}
					})
				}
				good.Wait()
				close(done)
				hostile.Wait()
				require.Positive(t, refused.Load())
			})
		}
	}
}

// A table that is locked or missing does not keep the retention sweep from the others.
func TestRetentionSweepIsolatesABadTable(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]string{
		"locked":  `LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE`,
		"missing": `ALTER TABLE inbox RENAME TO inbox_before; COMMIT`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newEnvironment(t)
			_, err := w.db.Exec(`INSERT INTO idempotency_keys (owner, key, request, answer, created_at) VALUES ('o', 'k', '', '{}', now() - interval '2 days')`)
			require.NoError(t, err)
			w.locked(t, spoil)
			keep := postgres.Retention{Inbox: time.Hour, Idempotency: time.Hour, Dropped: time.Hour, Topics: time.Hour}
			n, err := postgres.NewJanitor(w.db, keep, time.Hour, slog.New(slog.DiscardHandler)).Sweep(t.Context())
			require.Error(t, err)
			require.Equal(t, int64(1), n)
		})
	}
}

// fragile is an event whose decoding panics, as an upcaster with a bug does.
type fragile struct{ N int }

func (f *fragile) UnmarshalJSON([]byte) error { panic("a bug in an upcaster") }

// An event whose decoding panics fails the units that load its stream, and no other that reads at the same time.
func TestEventLoadsIsolateAPanic(t *testing.T) {
	w := newEnvironment(t)
	types := aggregate.Merge(inventory.Types, aggregate.TypesOf(aggregate.NewType[fragile]("fragile")))
	store := eventstore.New(w.db, types)
	w.stock = eventstore.NewRepository(store, inventory.Category, inventory.Rebuild, eventstore.Options{})
	w.uow = postgres.NewUnitOfWork(w.db, store, w.bus, time.Now)
	_, err := w.db.Exec(`INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
		VALUES ('inventory/bad', 1, nextval('events_position'), 'fragile', 1, '{}', '{}', now())`)
	require.NoError(t, err)
	var handling sync.WaitGroup
	for n := range 50 {
		handling.Go(func() {
			for round := range 3 {
				sku := fmt.Sprintf("good-%d-%d", n, round)
				if n == 0 {
					sku = "bad"
				}
				err := w.uow.Within(t.Context(), w.receiveOf(sku, 1))
				if _, panicked := errors.AsType[*cqrs.PanicError](err); panicked != (n == 0) || !panicked && err != nil {
					t.Errorf("%s: %v", sku, err)
				}
			}
		})
	}
	handling.Wait()
}
