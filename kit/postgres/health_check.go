package postgres

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"
)

// HealthCheck tells whether this process reaches PostgreSQL. It keeps one connection of the pool, so a pool whose connections are all in use does not
// count as a failure.
type HealthCheck struct {
	db      *sqlx.DB
	log     *slog.Logger
	conn    *sqlx.Conn // nil: to be opened
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
func NewHealthCheck(db *sqlx.DB, log *slog.Logger) *HealthCheck {
	return &HealthCheck{db: db, log: log}
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

func (h *HealthCheck) ping(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if h.conn == nil {
		if h.conn, err = h.db.Connx(ctx); err != nil {
			h.conn = nil
			if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == pgTooManyConnections {
				return nil // PostgreSQL has answered, and the handlers have the other connections of the pool
			}
			return err
		}
	}
	if err = h.conn.PingContext(ctx); err != nil {
		h.close()
	}
	return err
}

func (h *HealthCheck) close() {
	if h.conn != nil {
		_ = h.conn.Close() // it returns to the pool, or was lost
		h.conn = nil
	}
}
