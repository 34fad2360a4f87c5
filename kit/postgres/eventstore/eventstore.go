// Package eventstore stores events in PostgreSQL. An append states the version that it expects, and fails with cqrs.ErrConflict if the stream
// is at another version. Repository loads and saves aggregates, with optional snapshots. Reader reads all events in commit order without
// missing one.
package eventstore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// fenceClass and the schema's hash name the advisory lock that every append holds until its transaction ends. See Reader. Locks are global to
// the database, which services share that have a schema each.
const fenceClass = 0x6d72

// Store is the table of events, with a cache of streams.
type Store struct {
	db    *sqlx.DB
	types aggregate.Types
	cache *cache
	loads txn.Batcher[[]wanted, []found]
}

// loadTimeout limits one query of streams.
const loadTimeout = 15 * time.Second

// New makes a store of events of these types.
func New(db *sqlx.DB, types aggregate.Types) *Store {
	s := &Store{db: db, types: types, cache: newCache()}
	s.loads.Do, s.loads.Max, s.loads.Parallel = s.loadMany, 200, 1
	return s
}

// LimitCache limits the memory of cached streams, in bytes. Call it before the store is used.
func (s *Store) LimitCache(bytes int64) {
	const each = 1 << 10 // an estimate of the memory of an event, and of a stream, in bytes
	s.cache.maxKept = int(min(maxKept, bytes/each))
}

// Stream is the name of an aggregate's stream.
func Stream(category, id string) string { return category + "/" + id }

// meta is the stored form of cqrs.Meta, without the fields that have a column.
type meta struct {
	ID          string            `json:"id"`
	Correlation string            `json:"correlation,omitempty"`
	Causation   string            `json:"causation,omitempty"`
	SagaID      string            `json:"saga_id,omitempty"`
	SagaStep    string            `json:"saga_step,omitempty"`
	Branch      cqrs.Branch       `json:"branch,omitempty"`
	Trace       map[string]string `json:"trace,omitempty"`
}

// Append stores events after the versions that they carry in Meta.Version, when the unit of work of ctx commits. That fails
// with cqrs.ErrConflict if one of these versions is taken.
func (s *Store) Append(ctx context.Context, events []cqrs.Event) error {
	for _, e := range events {
		t, payload, err := s.types.Encode(e.Body)
		if err != nil {
			return err
		}
		m, err := json.Marshal(meta{e.Meta.ID, e.Meta.Correlation, e.Meta.Causation, e.Meta.SagaID, e.Meta.SagaStep, e.Meta.Branch, e.Meta.Trace})
		if err != nil {
			return err
		}
		err = appends.Write(ctx, row{
			Stream: e.Meta.Subject, Version: e.Meta.Version, Type: t.Name, Schema: t.Schema, Payload: payload, Meta: m, At: e.Meta.Time,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var appends = &txn.Statement[row]{
	Doing: "append events", Rank: 20, Locks: func(r row) string { return r.Stream },
	Query: func(rows []row) (string, []any, error) {
		// In the order of the streams, which is the same for all transactions, so that they do not deadlock.
		slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.Stream, b.Stream) })
		n := len(rows)
		streams, versions, types, schemas := make([]string, n), make([]int32, n), make([]string, n), make([]int32, n)
		payloads, metas, times := make([][]byte, n), make([][]byte, n), make([]time.Time, n)
		for i, r := range rows {
			streams[i], versions[i], types[i], schemas[i] = r.Stream, int32(r.Version), r.Type, int32(r.Schema)
			payloads[i], metas[i], times[i] = r.Payload, r.Meta, r.At
		}
		// The fence is taken before the first position is: the select list is computed on rows that the join has made.
		return `
			WITH fence AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared($1, hashtext(current_schema())))
			INSERT INTO events (position, stream, version, type, schema, payload, meta, at)
			SELECT nextval('events_position'), e.stream, e.version, e.type, e.schema, e.payload::json, e.meta::json, e.at
			FROM fence, unnest($2::text[], $3::int[], $4::text[], $5::int[], $6::text[], $7::text[], $8::timestamptz[])
				AS e(stream, version, type, schema, payload, meta, at)`,
			[]any{fenceClass, streams, versions, types, schemas, payloads, metas, times}, nil
	},
}

type row struct {
	Stream   string    `db:"stream"`
	Version  int       `db:"version"`
	Position int64     `db:"position"`
	Type     string    `db:"type"`
	Schema   int       `db:"schema"`
	Payload  []byte    `db:"payload"`
	Meta     []byte    `db:"meta"`
	At       time.Time `db:"at"`
}

const columns = `stream, version, position, type, schema, payload, meta, at`

func (s *Store) decode(r row) (cqrs.Event, error) {
	body, err := s.types.Decode(r.Type, r.Schema, r.Payload)
	if err != nil {
		return cqrs.Event{}, fmt.Errorf("event %d of %s: %w", r.Version, r.Stream, err)
	}
	var m meta
	if err := json.Unmarshal(r.Meta, &m); err != nil {
		return cqrs.Event{}, fmt.Errorf("metadata of event %d of %s: %w", r.Version, r.Stream, err)
	}
	category, id, _ := strings.Cut(r.Stream, "/")
	return cqrs.Event{
		Body: body, Category: category, Key: id, Position: r.Position,
		Meta: cqrs.Meta{
			ID: m.ID, Type: r.Type, Schema: r.Schema, Subject: r.Stream, Version: r.Version, Time: r.At.UTC(), Correlation: m.Correlation,
			Causation: m.Causation, SagaID: m.SagaID, SagaStep: m.SagaStep, Branch: m.Branch, Trace: m.Trace,
		},
	}, nil
}

func (s *Store) query(ctx context.Context, q sqlx.QueryerContext, query string, args ...any) ([]cqrs.Event, error) {
	var rows []row
	if err := sqlx.SelectContext(ctx, q, &rows, query, args...); err != nil {
		return nil, txn.Classify(err, "read events")
	}
	events := make([]cqrs.Event, len(rows))
	for i, r := range rows {
		var err error
		if events[i], err = s.decode(r); err != nil {
			return nil, err
		}
	}
	return events, nil
}
