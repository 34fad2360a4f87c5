// Reading all events in order. No event that commits late is missed. TestReaderWaitsForALateCommit, TestReaderGoesOnBehindAGap and TestReaderMissesNothing show it.

package eventstore

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Reader pages through all events in the order of their positions, and misses none.
//
// A transaction takes a position before it commits, so a lower position can become visible after a higher one. The reader therefore reads
// only up to a position below which no append is in flight. Every append holds a shared advisory lock, the fence, from before it takes a
// position until its transaction ends. The reader notes the last position taken, then the transactions that hold the fence, and waits until
// they end. Then every event up to the noted position is either visible or was rolled back. The reader does not wait for transactions that
// append nothing, and writers never wait.
type Reader struct {
	store    *Store
	after    int64
	bound    int64
	category string // empty: all
}

// Of limits the reader to the streams of a category.
func (r *Reader) Of(category string) *Reader {
	r.category = category
	return r
}

// Read makes a Reader that starts after a position; 0 is the beginning.
func (s *Store) Read(after int64) *Reader { return &Reader{store: s, after: after, bound: after} }

// Next returns up to limit events. It returns none when all events were read that had been committed when Next was called. It may be called
// again later.
func (r *Reader) Next(ctx context.Context, limit int) ([]cqrs.Event, error) {
	for fresh := false; ; {
		if r.after >= r.bound {
			bound, err := r.store.settled(ctx)
			if err != nil {
				return nil, err
			}
			r.bound, fresh = bound, true
		}
		events, err := r.store.query(ctx, r.store.db,
			`SELECT `+columns+` FROM events WHERE position > $1 AND position <= $2 AND ($4 = '' OR starts_with(stream, $4 || '/')) ORDER BY position LIMIT $3`,
			r.after, r.bound, limit, r.category)
		switch {
		case err != nil:
			return nil, err
		case len(events) > 0:
			r.after = events[len(events)-1].Position
			return events, nil
		}
		r.after = r.bound // positions of transactions that were rolled back stay unused
		if fresh {
			return nil, nil
		}
	}
}

// Committed returns the following events that are committed now. It does not wait for appends in flight, so later events may have lower
// positions, and Next returns all of them again.
func (r *Reader) Committed(ctx context.Context) ([]cqrs.Event, error) {
	return r.store.query(ctx, r.store.db, `SELECT `+columns+` FROM events WHERE position > $1 AND ($2 = '' OR starts_with(stream, $2 || '/')) ORDER BY position`,
		r.after, r.category)
}

// settled returns a position up to which all committed events are visible.
func (s *Store) settled(ctx context.Context) (int64, error) {
	var bound int64
	if err := s.db.GetContext(ctx, &bound, `SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_position`); err != nil {
		return 0, txn.Classify(err, "read the last position")
	}
	var writers []string
	err := s.db.SelectContext(ctx, &writers, holders, fenceClass)
	for pause := time.Millisecond; err == nil && len(writers) > 0; pause = min(2*pause, 100*time.Millisecond) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
		var still []string
		query, args, inErr := sqlx.In(`SELECT * FROM (`+holdersIn+`) h WHERE writer IN (?)`, fenceClass, writers)
		if inErr != nil {
			return 0, inErr
		}
		err = s.db.SelectContext(ctx, &still, s.db.Rebind(query), args...)
		writers = still
	}
	return bound, txn.Classify(err, "wait for writers")
}

const (
	holdersFrom = ` FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND objid::bigint = hashtext(current_schema())::bigint & 4294967295 AND classid = `
	holders   = `SELECT virtualtransaction` + holdersFrom + `$1`
	holdersIn = `SELECT virtualtransaction AS writer` + holdersFrom + `?`
)
