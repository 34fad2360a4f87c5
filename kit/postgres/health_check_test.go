package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
)

// A health check fails while the network is cut, whether connections end or hang. It does not fail when the network is cut for a moment, nor when PostgreSQL refuses
// another connection because there are too many.
func TestHealthCheck(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	watch := func(dsn string) *postgres.HealthCheck {
		pool, err := postgres.Open(dsn, postgres.MinConns)
		require.NoError(t, err)
		r := postgres.NewHealthCheck(pool, slog.New(slog.DiscardHandler))
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.Run(ctx)
		}()
		t.Cleanup(func() { end(); <-ended; _ = pool.Close() })
		return r
	}
	until := func(r *postgres.HealthCheck, failing bool) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if r.Failing() != failing {
				return fmt.Errorf("Failing is not %v", failing)
			}
			return nil
		})
	}

	network, through := kittest.ToPostgres(t, dsn)
	_, err := db.Exec(`CREATE ROLE full_up LOGIN PASSWORD 'x' CONNECTION LIMIT 0`)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := db.Exec(`DROP ROLE full_up`)
		require.NoError(t, err)
	})
	full, err := url.Parse(dsn)
	require.NoError(t, err)
	full.User = url.UserPassword("full_up", "x")
	r, crowded := watch(through), watch(full.String())

	network.Cut()
	time.Sleep(5 * time.Second)
	network.Heal()
	require.Never(t, r.Failing, 4*time.Second, 50*time.Millisecond)
	network.Cut()
	until(r, true)
	network.Heal()
	until(r, false)
	network.Cut()
	network.Drop()
	until(r, true)
	network.Heal()
	until(r, false)
	require.False(t, crowded.Failing())
}
