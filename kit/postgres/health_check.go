package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// HealthCheck tells whether this process reaches PostgreSQL. It has a connection of its own, so a pool whose connections are all in use does not
// count as a failure.
type HealthCheck struct {
	dsn     string
	log     *slog.Logger
	conn    *pgx.Conn // nil: to be opened
	failing atomic.Bool
}

// A ping takes at most pingTimeout, and starts pingEvery after the one before. So a HealthCheck fails 8 to 12 s after PostgreSQL has become unreachable.
const (
	pingEvery   = 2500 * time.Millisecond
	pingTimeout = 2 * time.Second
	maxPings    = 4 // in a row that fail
)

// SQLSTATE codes of a server that answers, and accepts no connection now.
const (
	pgTooManyConnections = "53300"
	pgCannotConnectNow   = "57P03"
)

// NewHealthCheck makes a HealthCheck that does not fail until Run finds out otherwise.
func NewHealthCheck(dsn string, log *slog.Logger) *HealthCheck {
	return &HealthCheck{dsn: dsn, log: log}
}

// Failing tells whether PostgreSQL has been unreachable for about ten seconds.
func (h *HealthCheck) Failing() bool { return h.failing.Load() }

// Run pings PostgreSQL until ctx is done.
func (h *HealthCheck) Run(ctx context.Context) {
	defer h.close()
	for failed := 0; ; {
		began := time.Now()
		err := h.ping(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failed = 0
		} else {
			failed++
		}
		if failing := failed >= maxPings; failing != h.failing.Swap(failing) {
			if failing {
				h.log.Warn("PostgreSQL is unreachable: this instance leaves its partitions to other instances", "error", err)
			} else {
				h.log.Info("PostgreSQL is reachable again")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pingEvery - time.Since(began)):
		}
	}
}

func (h *HealthCheck) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if h.conn == nil {
		config, err := txn.Config(h.dsn, map[string]string{"application_name": "millrace health check"})
		if err != nil {
			return err
		}
		if h.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
			h.conn = nil
			if isFull(err) {
				return nil // the server has answered, and the handlers have the connections of the pool
			}
			return err
		}
	}
	err := h.conn.Ping(ctx)
	if err != nil {
		h.close()
	}
	return err
}

// isFull tells whether PostgreSQL or PgBouncer has refused a connection because there are too many. PgBouncer has no code for it.
func isFull(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (refused.Code == pgTooManyConnections || strings.Contains(refused.Message, "no more connections allowed"))
}

func (h *HealthCheck) close() {
	if h.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = h.conn.Close(ctx) // at worst it was lost
	h.conn = nil
}
