// Package audit checks what is stored: that streams have no gaps, that what was derived from events equals their fold, and that
// nothing waits for something that does not exist. It reads one snapshot of the database, so it can run beside working instances.
package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// MaxIDs bounds how many offending ids a Result names.
const MaxIDs = 20

// Result is the outcome of one check.
type Result struct {
	Check   string   `json:"check"`
	Checked int64    `json:"checked"` // how many streams, rows or keys were looked at
	Faults  int64    `json:"faults"`
	IDs     []string `json:"ids,omitempty"` // the offending ones, each with what is wrong with it; at most MaxIDs
}

func (r *Result) fault(text string) {
	r.Faults++
	if len(r.IDs) < MaxIDs {
		r.IDs = append(r.IDs, text)
	}
}

// Report has one Result a check.
type Report struct {
	Consistent bool     `json:"consistent"`
	Checks     []Result `json:"checks"`
}

// Derived says how rows that were derived from streams are compared with them.
type Derived struct {
	Check string

	// Rows selects the streams' names, and each row as json.
	Rows string

	// Compare returns an error that says how the row differs from the fold of the stream, of which it gets all events, oldest first.
	Compare func(row []byte, events []cqrs.Event) error
}

// Events decodes stored events; the event store does.
type Events interface {
	// Each calls fn for each stream that a query names in its first column, with the query's second column and all events of the stream.
	Each(ctx context.Context, tx *sqlx.Tx, query string, fn func(stream string, row []byte, events []cqrs.Event, err error)) error
}

// query is a check that SQL does alone: the first statement counts what is looked at, the second selects a sentence for each fault.
type query struct{ check, count, faults string }

var queries = []query{
	{
		"streams: versions 1 to n, no gap", `SELECT count(DISTINCT stream) FROM events`,
		`SELECT format('%s: versions %s to %s, %s events', stream, min(version), max(version), count(*)) FROM events GROUP BY stream
		HAVING min(version) <> 1 OR max(version) <> count(*) ORDER BY stream`,
	},
	{
		"positions: unique", `SELECT count(*) FROM events`,
		`SELECT format('position %s: %s events', position, count(*)) FROM events GROUP BY position HAVING count(*) > 1`,
	},
	{
		"positions: rise with the versions of a stream", `SELECT count(*) FROM events`,
		`SELECT format('%s: version %s has position %s, the version before it %s', stream, version, position, before) FROM (
			SELECT stream, version, position, lag(position) OVER (PARTITION BY stream ORDER BY version) AS before FROM events) e
		WHERE before >= position`,
	},
	{
		"sagas: no event is kept for which one waits", `SELECT count(*) FROM saga_waits`,
		`SELECT format('%s: %s of key %s is kept, and saga %s waits for it', definition, event, key, saga_id) FROM saga_events JOIN saga_waits USING (definition, event, key)`,
	},
	{
		"relay: each message is in the shard of its key", `SELECT count(*) FROM outbox`,
		`SELECT format('%s: key %s: row %s is in shard %s', topic, key, id, shard) FROM outbox WHERE shard <> outbox_shard(topic, key)`,
	},
	{
		"relay: each blocked key has an open dead letter", `SELECT count(DISTINCT (topic, key)) FROM outbox WHERE due_at = 'infinity'`,
		`SELECT format('%s: key %s: %s messages suspended', topic, key, count(*)) FROM outbox o WHERE due_at = 'infinity'
			AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.topic = o.topic AND d.key = o.key AND d.outbox_id IS NOT NULL AND d.dropped_at IS NULL)
		GROUP BY topic, key`,
	},
	{
		"relay: each message that is aside belongs to a suspended topic", `SELECT count(*) FROM outbox WHERE due_at = '-infinity'`,
		`SELECT format('%s: %s messages aside, and the topic is not suspended', topic, count(*)) FROM outbox o WHERE due_at = '-infinity'
			AND NOT EXISTS (SELECT FROM suspended_topics t WHERE t.topic = o.topic) GROUP BY topic`,
	},
	{
		"relay: each lease has an owner that runs", `SELECT count(*) FROM relay_leases WHERE owner IS NOT NULL AND expires_at > app_now()`,
		`SELECT format('shard %s: leased to %s, which is no relay', shard, owner) FROM relay_leases l WHERE owner IS NOT NULL AND expires_at > app_now()
			AND NOT EXISTS (SELECT FROM relays r WHERE r.owner = l.owner)`,
	},
	{
		"key queue: each blocked key has waiting messages, and each waiting message a blocked key", `SELECT count(*) FROM blocked_keys`,
		`SELECT format('%s: key %s: %s', consumer, encode(key, 'escape'), CASE WHEN n IS NULL THEN 'blocked, but no message waits' ELSE n || ' messages wait, but it is not blocked' END)
		FROM blocked_keys b FULL JOIN (SELECT consumer, key, count(*) AS n FROM waiting_messages GROUP BY consumer, key) w USING (consumer, key)
		WHERE b.due_at IS NULL OR w.n IS NULL`,
	},
	{
		"key queue: a key that waits for an operator has an open dead letter", `SELECT count(*) FROM blocked_keys WHERE due_at = 'infinity'`,
		`SELECT format('%s: key %s', consumer, encode(key, 'escape')) FROM blocked_keys b WHERE due_at = 'infinity'
			AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.consumer = b.consumer AND d.raw_key = b.key AND d.dropped_at IS NULL)`,
	},
	{
		"key queue: no key is leased for ever", `SELECT count(*) FROM blocked_keys WHERE lease IS NOT NULL`,
		`SELECT format('%s: key %s: leased by %s', consumer, encode(key, 'escape'), lease) FROM blocked_keys WHERE lease IS NOT NULL AND due_at = 'infinity'`,
	},
}

// Run runs all checks on one snapshot of the database. Its error says that a check could not be run, not that it found something.
func Run(ctx context.Context, db *sqlx.DB, events Events, derived []Derived) (report Report, err error) {
	tx, err := db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return Report{}, txn.Classify(err, "audit")
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	for _, q := range queries {
		r := Result{Check: q.check}
		var faults []string
		if err := tx.GetContext(ctx, &r.Checked, q.count); err != nil {
			return Report{}, txn.Classify(err, q.check)
		}
		if err := tx.SelectContext(ctx, &faults, q.faults); err != nil {
			return Report{}, txn.Classify(err, q.check)
		}
		for _, f := range faults {
			r.fault(f)
		}
		report.Checks = append(report.Checks, r)
	}
	for _, d := range derived {
		r := Result{Check: d.Check}
		err := events.Each(ctx, tx, d.Rows, func(stream string, row []byte, events []cqrs.Event, err error) {
			r.Checked++
			if err == nil {
				err = d.Compare(row, events)
			}
			if err != nil {
				r.fault(fmt.Sprintf("%s: %v", stream, err))
			}
		})
		if err != nil {
			return Report{}, fmt.Errorf("%s: %w", d.Check, err)
		}
		report.Checks = append(report.Checks, r)
	}
	report.Consistent = true
	for _, r := range report.Checks {
		report.Consistent = report.Consistent && r.Faults == 0
	}
	return report, nil
}

// Snapshot says how the snapshots of a category are made.
type Snapshot struct {
	Schema string                             // of this program's snapshots
	State  func([]cqrs.Event) ([]byte, error) // what a snapshot keeps after some events
}

// SnapshotOf makes a Snapshot of what eventstore.FoldSnapshot returns.
func SnapshotOf(schema string, state func([]cqrs.Event) ([]byte, error)) Snapshot {
	return Snapshot{schema, state}
}

// Snapshots compares each snapshot with the fold of its stream up to the snapshot's version. Snapshots of other schemas are not used by this
// program, and are only checked to be of a version that exists.
func Snapshots(folds map[string]Snapshot) Derived {
	return Derived{
		Check: "snapshots: equal to the fold of their streams",
		Rows:  `SELECT stream, json_build_object('version', version, 'schema', schema, 'state', state)::text FROM snapshots`,
		Compare: func(row []byte, events []cqrs.Event) error {
			var kept struct {
				Version int
				Schema  string
				State   json.RawMessage
			}
			if err := json.Unmarshal(row, &kept); err != nil {
				return err
			}
			if kept.Version > len(events) {
				return fmt.Errorf("snapshot of version %d, of a stream of %d events", kept.Version, len(events))
			}
			if len(events) == 0 {
				return errors.New("snapshot of version 0")
			}
			fold, known := folds[events[0].Category]
			if !known {
				return fmt.Errorf("nothing folds snapshots of the category %s", events[0].Category)
			}
			if kept.Schema != fold.Schema {
				return nil
			}
			state, err := fold.State(events[:kept.Version])
			if err != nil {
				return err
			}
			if !sameJSON(kept.State, state) {
				return fmt.Errorf("snapshot of version %d is %s, the fold is %s", kept.Version, kept.State, state)
			}
			return nil
		},
	}
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
