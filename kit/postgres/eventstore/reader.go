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
// A position is taken before its transaction commits, so a lower one can become visible after a higher one. Reading only
// up to where nobody can still come late needs no order among the writers: every append holds a shared advisory lock, the
// fence, from before it takes a position until its transaction ends. The reader notes the last position that was taken,
// then who holds the fence, and waits for those to end. Whatever has a position up to the noted one is then visible, or
// never will be. Transactions that append nothing are not waited for, and writers never wait.
type Reader struct {
	store    *Store
	after    int64
	bound    int64
	category string // empty: all
}

// Of has the reader leave out all streams but those of a category.
func (r *Reader) Of(category string) *Reader {
	r.category = category
	return r
}

// Read starts after a position; 0 is the beginning.
func (s *Store) Read(after int64) *Reader { return &Reader{store: s, after: after, bound: after} }

// Next returns up to limit events. None means that all was read that had been committed when Next was called; it may be asked again.
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
		r.after = r.bound // what was rolled back leaves gaps
		if fresh {
			return nil, nil
		}
	}
}

// Committed returns the events that follow and are committed by now. It does not wait for transactions that took a position and are still
// open, so later ones may have lower positions, and Next returns all of them again.
func (r *Reader) Committed(ctx context.Context) ([]cqrs.Event, error) {
	return r.store.query(ctx, r.store.db, `SELECT `+columns+` FROM events WHERE position > $1 AND ($2 = '' OR starts_with(stream, $2 || '/')) ORDER BY position`,
		r.after, r.category)
}

// settled returns a position up to which everything is visible.
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
