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

// Reach tells whether this process reaches PostgreSQL. It keeps a connection of the pool, so that a pool that is busy does not count as unreachable.
type Reach struct {
	db   *sqlx.DB
	log  *slog.Logger
	conn *sqlx.Conn // nil: to be opened
	lost atomic.Bool
}

// An attempt takes at most reachTimeout, and begins reachEvery after the one before: so PostgreSQL counts as unreachable after 8 to 12 s.
const (
	reachEvery    = 2500 * time.Millisecond
	reachTimeout  = 2 * time.Second
	reachAttempts = 4 // in a row that fail
)

// NewReach makes a Reach, for which PostgreSQL is reachable until Run says otherwise.
func NewReach(db *sqlx.DB, log *slog.Logger) *Reach { return &Reach{db: db, log: log} }

// Lost tells whether PostgreSQL could not be reached for about ten seconds, and since.
func (r *Reach) Lost() bool { return r.lost.Load() }

// Run asks PostgreSQL until ctx is done.
func (r *Reach) Run(ctx context.Context) {
	defer r.close()
	for failed := 0; ; {
		began := time.Now()
		err := r.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failed = 0
		} else {
			failed++
		}
		if lost := failed >= reachAttempts; lost != r.lost.Swap(lost) {
			if lost {
				r.log.Warn("PostgreSQL is out of reach: other instances handle the messages of this one, if they reach it", "error", err)
			} else {
				r.log.Info("PostgreSQL is reached again")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(reachEvery - time.Since(began)):
		}
	}
}

func (r *Reach) ask(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if r.conn == nil {
		if r.conn, err = r.db.Connx(ctx); err != nil {
			r.conn = nil
			if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "53300" {
				return nil // too many connections: it is reached, and the handlers have those of the pool
			}
			return err
		}
	}
	if err = r.conn.PingContext(ctx); err != nil {
		r.close()
	}
	return err
}

func (r *Reach) close() {
	if r.conn != nil {
		_ = r.conn.Close() // it goes back to the pool, or is lost
		r.conn = nil
	}
}
