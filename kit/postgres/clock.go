package postgres

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// Clock tells the time of the database, so that all instances agree on deadlines even if the clock of one of them is wrong.
type Clock struct {
	db     *sqlx.DB
	local  func() time.Time
	log    *slog.Logger
	offset atomic.Int64 // database's clock minus local clock, in nanoseconds
	ahead  atomic.Int64 // test clock minus database's clock, in nanoseconds; 0 except in tests
}

const (
	clockEvery = 30 * time.Second

	// clockSlack is the difference up to which clocks count as equal: about the time of a query.
	clockSlack = 500 * time.Millisecond
)

// NewClock makes a clock with the local time. Sync makes it follow the database's.
func NewClock(db *sqlx.DB, local func() time.Time, log *slog.Logger) *Clock {
	return &Clock{db: db, local: local, log: log}
}

// Now is the database's time.
func (c *Clock) Now() time.Time { return c.local().Add(time.Duration(c.offset.Load())) }

// Real is the time without the test clock's offset. Kafka needs it, because it refuses timestamps in the future.
func (c *Clock) Real() time.Time { return c.Now().Add(-time.Duration(c.ahead.Load())) }

// Sync measures the difference to the database's clock.
func (c *Clock) Sync(ctx context.Context) error {
	before := c.local()
	var there struct{ Time, Real time.Time }
	if err := c.db.GetContext(ctx, &there, `SELECT app_clock() AS time, clock_timestamp() AS real`); err != nil {
		return txn.Classify(err, "ask the database for its time")
	}
	took := c.local().Sub(before)
	c.ahead.Store(int64(there.Time.Sub(there.Real).Round(time.Second)))
	offset := there.Time.Sub(before.Add(took / 2))
	if known := time.Duration(c.offset.Load()); (offset - known).Abs() > max(clockSlack, took) {
		c.log.Warn("local clock differs from the database's clock, which is used", "ahead", -offset)
		c.offset.Store(int64(offset))
	}
	return nil
}

// Run calls Sync regularly until ctx is done.
func (c *Clock) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(clockEvery):
			if err := c.Sync(ctx); err != nil && ctx.Err() == nil {
				c.log.Debug("clock: sync failed, retrying", "error", err)
			}
		}
	}
}
