package postgres_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/postgres"
	"github.com/millrace/millrace/adapters/postgres/lines"
	"github.com/millrace/millrace/app"
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
// 2,054 good requests fail; a record with such a key made 49 of 49 other messages fail.
func TestGatheredLookUpsIsolateABadElement(t *testing.T) {
	lookUps := map[string]func(t *testing.T) func(ctx context.Context, text string) error{
		"idempotency keys": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newWorld(t)
			keys := postgres.NewIdempotency(w.db)
			return func(ctx context.Context, text string) error {
				return w.uow.Within(ctx, func(ctx context.Context) error {
					_, err := keys.Claim(ctx, "customer", text, []byte("hash"), "answer")
					return err
				})
			}
		},
		"inbox": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newWorld(t)
			return func(ctx context.Context, text string) error {
				_, err := w.uow.Handle(ctx, command(text, text, app.Undo), func(context.Context) error { return nil })
				return err
			}
		},
		"inbox, expected": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newWorld(t)
			return func(ctx context.Context, text string) error {
				w.uow.Expect(command(text, text, app.Undo))
				_, err := w.uow.Peek(ctx, command(text, text, app.Undo))
				return err
			}
		},
		"event loads": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newWorld(t)
			return func(ctx context.Context, text string) error { return w.uow.Within(ctx, w.receiveOf(text, 1)) }
		},
		"blocked keys": func(t *testing.T) func(ctx context.Context, text string) error {
			w := newWorld(t)
			keys := lines.New(w.db, func() {})
			return func(ctx context.Context, text string) error {
				_, _, err := keys.Join(ctx, app.Place{Consumer: "c", Line: text}, "topic", message.NewMessage("id", nil))
				return err
			}
		},
	}
	for name, lookUp := range lookUps {
		for kind, bad := range badText() {
			if name == "blocked keys" && kind == "too large" {
				continue // it is only compared
			}
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
							if err := call(t.Context(), bad); app.KindOf(err) != app.Poison {
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
