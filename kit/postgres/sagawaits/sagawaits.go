// Package sagawaits matches events with the sagas that wait for them. For one definition, event type and key, the tables hold either instances that wait
// or events that arrived before any instance waited, and never both: an event and a wait each look for the other, and store a row if there is none,
// under the same lock. TestAnEventAndAWaitFindEachOther shows it for events and waits that arrive at the same time.
package sagawaits

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Waits implements manager.Waits on the tables saga_waits and saga_events. Its methods must be called inside a unit of work, and give that unit a
// transaction of its own, which is not part of a group commit. Outside a unit of work, and in a unit that is part of a group commit already, they return
// an error.
type Waits struct{}

var _ manager.Waits = Waits{}

// lock locks correlations of a definition until the transaction ends. It blocks while another transaction holds one of these locks.
func lock(ctx context.Context, tx *sqlx.Tx, definition string, by []saga.Correlation) error {
	names := make([]string, len(by))
	for i, c := range by {
		names[i] = definition + "\x1f" + c.Event + "\x1f" + c.Key
	}
	slices.Sort(names) // the same order in each transaction prevents deadlocks
	for _, name := range slices.Compact(names) {
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 18))`, name); err != nil {
			return txn.Classify(err, "lock what sagas wait for")
		}
	}
	return nil
}

// row is a row of saga_waits.
type row struct {
	SagaID string `db:"saga_id"`
	Step   string `db:"step"`
	Event  string `db:"event"`
	Key    string `db:"key"`
}

// Deliver implements manager.Waits. An event that is delivered twice is kept once.
func (Waits) Deliver(ctx context.Context, definition string, e manager.KeptEvent, by []saga.Correlation) (*manager.Waiting, error) {
	tx, err := txn.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if err := lock(ctx, tx, definition, by); err != nil {
		return nil, err
	}
	events, keys := make([]string, len(by)), make([]string, len(by))
	for i, c := range by {
		events[i], keys[i] = c.Event, c.Key
	}
	var found row
	err = tx.GetContext(ctx, &found, `DELETE FROM saga_waits w USING (
			SELECT saga_id, step FROM saga_waits JOIN unnest($2::text[], $3::text[]) AS c(event, key) USING (event, key) WHERE definition = $1 ORDER BY seq LIMIT 1
		) oldest WHERE w.saga_id = oldest.saga_id AND w.step = oldest.step RETURNING w.saga_id, w.step, w.event, w.key`, definition, events, keys)
	if err == nil {
		return &manager.Waiting{SagaID: found.SagaID, Wait: saga.Wait{Step: found.Step, Correlation: saga.Correlation{Event: found.Event, Key: found.Key}}}, nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		_, err = tx.ExecContext(ctx, `INSERT INTO saga_events (definition, event, key, message_id, body, happened_at)
			SELECT $1, c.event, c.key, $4, $5, $6 FROM unnest($2::text[], $3::text[]) AS c(event, key) ON CONFLICT DO NOTHING`,
			definition, events, keys, e.MessageID, string(e.Body), e.Time)
	}
	return nil, txn.Classify(err, "find who waits for an event")
}

// Begin implements manager.Waits.
func (Waits) Begin(ctx context.Context, definition string, w manager.Waiting) (*manager.KeptEvent, error) {
	tx, err := txn.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if err := lock(ctx, tx, definition, []saga.Correlation{w.Correlation}); err != nil {
		return nil, err
	}
	var kept struct {
		MessageID string    `db:"message_id"`
		Body      string    `db:"body"`
		Time      time.Time `db:"happened_at"`
	}
	for again := true; again; { // the oldest event may be deleted meanwhile: its retention is over, or a wait for another of its keys has received it
		err = tx.GetContext(ctx, &kept, `DELETE FROM saga_events WHERE definition = $1 AND event = $2 AND key = $3 AND message_id = (
				SELECT message_id FROM saga_events WHERE definition = $1 AND event = $2 AND key = $3 ORDER BY seq LIMIT 1)
			RETURNING message_id, body, happened_at`, definition, w.Event, w.Key)
		if again = errors.Is(err, sql.ErrNoRows); again {
			if err := tx.GetContext(ctx, &again, `SELECT EXISTS (SELECT FROM saga_events WHERE definition = $1 AND event = $2 AND key = $3)`, definition, w.Event, w.Key); err != nil {
				return nil, txn.Classify(err, "find an event that was kept")
			}
		}
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.ExecContext(ctx, `INSERT INTO saga_waits (saga_id, step, definition, event, key) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (saga_id, step) DO UPDATE SET event = excluded.event, key = excluded.key`, w.SagaID, w.Step, definition, w.Event, w.Key)
		return nil, txn.Classify(err, "begin to wait for an event")
	case err == nil: // the event may have been kept under other keys too
		_, err = tx.ExecContext(ctx, `DELETE FROM saga_events WHERE definition = $1 AND message_id = $2`, definition, kept.MessageID)
	}
	if err != nil {
		return nil, txn.Classify(err, "find an event that was kept")
	}
	return &manager.KeptEvent{MessageID: kept.MessageID, Body: json.RawMessage(kept.Body), Time: kept.Time}, nil
}

// End implements manager.Waits.
func (Waits) End(ctx context.Context, definition string, waits []manager.Waiting) error {
	tx, err := txn.FromContext(ctx)
	if err != nil {
		return err
	}
	by := make([]saga.Correlation, len(waits))
	for i, w := range waits {
		by[i] = w.Correlation
	}
	if err := lock(ctx, tx, definition, by); err != nil {
		return err
	}
	for _, w := range waits {
		if _, err := tx.ExecContext(ctx, `DELETE FROM saga_waits WHERE saga_id = $1 AND step = $2`, w.SagaID, w.Step); err != nil {
			return txn.Classify(err, "end the wait for an event")
		}
	}
	return nil
}

// List returns the events that no saga waits for, the newest first, at most atMost.
func List(ctx context.Context, db *sqlx.DB, atMost int) (all []manager.UnmatchedEvent, err error) {
	err = db.SelectContext(ctx, &all, `SELECT definition, event, key, message_id, body, happened_at, received_at FROM saga_events ORDER BY received_at DESC, seq DESC LIMIT $1`, atMost)
	return all, txn.Classify(err, "list the events that no saga waits for")
}

// Count returns the number of events that no saga waits for, by definition. It counts at most atMost events in all.
func Count(ctx context.Context, db *sqlx.DB, atMost int) (map[string]int, error) {
	var rows []struct {
		Definition string `db:"definition"`
		N          int    `db:"n"`
	}
	err := db.SelectContext(ctx, &rows, `SELECT definition, count(*) AS n FROM (SELECT definition FROM saga_events LIMIT $1) AS kept GROUP BY definition`, atMost)
	all := map[string]int{}
	for _, r := range rows {
		all[r.Definition] = r.N
	}
	return all, txn.Classify(err, "count the events that no saga waits for")
}
