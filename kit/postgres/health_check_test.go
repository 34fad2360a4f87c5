package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres"
)

// healthCheck runs a health check until the test ends.
func healthCheck(t *testing.T, dsn string) *postgres.HealthCheck {
	t.Helper()
	h := postgres.NewHealthCheck(dsn, slog.New(slog.DiscardHandler))
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	t.Cleanup(func() { end(); <-ended })
	return h
}

// A health check fails while the network is cut, whether connections end or hang. It does not fail when the network is cut for a moment, nor when PostgreSQL or PgBouncer
// refuses another connection because there are too many.
func TestHealthCheck(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
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
	r, crowded, pooled := healthCheck(t, through), healthCheck(t, full.String()), healthCheck(t, "postgres://x@"+fullPgBouncer(t)+"/x?sslmode=disable")

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
	require.False(t, pooled.Failing())
}

// fullPgBouncer answers each client as a PgBouncer does that has max_client_conn already. It returns its address.
func fullPgBouncer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := pgproto3.NewBackend(conn, conn)
				if _, err := b.ReceiveStartupMessage(); err != nil {
					return
				}
				b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "no more connections allowed (max_client_conn)"})
				_ = b.Flush()
			}()
		}
	}()
	return l.Addr().String()
}
