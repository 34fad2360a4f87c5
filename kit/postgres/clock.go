package postgres

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// Clock tells the time of the database, so that deadlines mean the same to all instances, however wrong the clock of one of
// them is.
type Clock struct {
	db     *sqlx.DB
	local  func() time.Time
	log    *slog.Logger
	offset atomic.Int64 // of the database's clock from the local one, in nanoseconds
	ahead  atomic.Int64 // of the test clock from the database's; 0 but in tests
}

const (
	clockEvery = 30 * time.Second

	// clockSlack is the difference up to which clocks count as equal: about what a question to the database may take.
	clockSlack = 500 * time.Millisecond
)

// NewClock makes a clock that agrees with the local one until Sync has asked the database.
func NewClock(db *sqlx.DB, local func() time.Time, log *slog.Logger) *Clock {
	return &Clock{db: db, local: local, log: log}
}

// Now is the time.
func (c *Clock) Now() time.Time { return c.local().Add(time.Duration(c.offset.Load())) }

// Real is the time for those who do not follow a test's clock: Kafka.
func (c *Clock) Real() time.Time { return c.Now().Add(-time.Duration(c.ahead.Load())) }

// Sync asks the database for its time.
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
		c.log.Warn("the clock here is not that of the database, which counts", "ahead", -offset)
		c.offset.Store(int64(offset))
	}
	return nil
}

// Run asks now and then until ctx is done.
func (c *Clock) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(clockEvery):
			if err := c.Sync(ctx); err != nil && ctx.Err() == nil {
				c.log.Debug("clock: will try again", "error", err)
			}
		}
	}
}
