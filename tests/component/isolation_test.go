package component

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// Requests share look-ups and commits: one that is bad fails alone.
func TestBadRequestsAreIsolated(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	i.Stock(100_000, "MUG-01")
	body := harness.OrderBody("pm_ok", "MUG-01")
	good := func(name string) {
		var sending sync.WaitGroup
		for n := range 49 {
			sending.Go(func() {
				for round := range 2 {
					key := fmt.Sprintf("%s-%d-%d", name, n, round)
					response, err := i.Try(http.MethodPost, "/v1/orders", body, "Idempotency-Key", key)
					if err != nil || response.Status != http.StatusAccepted {
						t.Errorf("%s: %d %s %v", key, response.Status, response.Body, err)
					}
				}
			})
		}
		sending.Wait()
	}

	// 956 of 2,054 good requests were answered 500.
	t.Run("Idempotency-Key of hostile bytes", func(t *testing.T) {
		done := make(chan struct{})
		var sending sync.WaitGroup
		var refused atomic.Int32
		for range 2 {
			sending.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					response, err := i.Try(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "a\xffb")
					if err != nil || response.Status != http.StatusBadRequest {
						t.Errorf("%d %s %v", response.Status, response.Body, err)
						return
					}
					refused.Add(1)
				}
			})
		}
		good("beside-hostile")
		close(done)
		sending.Wait()
		require.Positive(t, refused.Load())
	})

	// Every commit of the instance stood for 5 s, and then 49 of 50 units failed.
	t.Run("locked row", func(t *testing.T) {
		db := kittest.OpenDB(t, i.DSN())
		lock, err := db.BeginTx(context.Background(), nil)
		require.NoError(t, err)
		defer lock.Rollback()
		_, err = lock.Exec(`INSERT INTO idempotency_keys (owner, key, request, answer) VALUES ('guest', 'locked', '', '{}')`)
		require.NoError(t, err)
		answer := make(chan kittest.Response, 1)
		go func() {
			response, _ := i.Try(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "locked")
			answer <- response
		}()
		good("beside-locked") // while the lock is held
		response := <-answer
		require.Equal(t, http.StatusServiceUnavailable, response.Status, response.Body)
		require.NoError(t, lock.Rollback())
		again := i.Do(http.MethodPost, "/v1/orders", body, "Idempotency-Key", "locked")
		require.Equal(t, http.StatusAccepted, again.Status, again.Body)
		require.Empty(t, again.Header.Get("Idempotency-Replayed"))
		var order harness.Order
		again.JSON(t, &order)
		i.Decided(order.ID)
	})
	require.Equal(t, 2*49*2+1, i.Consistent().Orders)
}
