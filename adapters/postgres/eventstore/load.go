package eventstore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// wanted asks for a stream: its events after a version, from its snapshot on if there is one and that is wanted.
type wanted struct {
	stream   string
	after    int
	snapshot bool
}

// found is what is stored of it.
type found struct {
	snapshot snapshot
	events   []app.Event
	err      error // one of them cannot be understood; that is the fault of nobody else who reads at the same time
}

// whole is an error if one of some streams cannot be understood.
func whole(streams []found, err error) ([]found, error) {
	for _, f := range streams {
		err = cmp.Or(err, f.err)
	}
	return streams, err
}

type snapshot struct {
	Stream  string `db:"stream"`
	Version int    `db:"version"`
	State   []byte `db:"state"`
}

// LATERAL and OFFSET 0 keep the planner at a look into the index for each stream. A plan that it makes while the table is small, and keeps,
// would read all of it.
const (
	snapshotsOf = `SELECT stream, version, state FROM snapshots WHERE stream = ANY($1)`
	eventsOf    = `
		SELECT w.n, ` + columns + ` FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS w(name, after, n)
		CROSS JOIN LATERAL (SELECT * FROM events WHERE stream = w.name AND version > w.after ORDER BY version OFFSET 0) e`
)

// loadMany reads the streams that several units want at the same time.
func (s *Store) loadMany(calls [][]wanted) ([][]found, error) {
	var all []wanted
	for _, c := range calls {
		all = append(all, c...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	flat, err := s.read(ctx, nil, all)
	if err != nil {
		return nil, err
	}
	out := make([][]found, len(calls))
	for i, c := range calls {
		out[i], flat = flat[:len(c)], flat[len(c):]
	}
	return out, nil
}

// read reads streams, in the transaction of a unit if it has its own.
func (s *Store) read(ctx context.Context, u *txn.Unit, all []wanted) ([]found, error) {
	out := make([]found, len(all))
	names, versions := make([]string, len(all)), make([]int32, len(all))
	var snapshots []string
	at := map[string][]int{}
	for i, w := range all {
		names[i], versions[i] = w.stream, int32(w.after) //nolint:gosec // the column is an integer
		if w.snapshot && w.after == 0 {
			snapshots = append(snapshots, w.stream)
			at[w.stream] = append(at[w.stream], i)
		}
	}
	if len(snapshots) > 0 {
		b := &pgx.Batch{}
		b.Queue(snapshotsOf, snapshots).Query(func(rows pgx.Rows) error {
			var found snapshot
			_, err := pgx.ForEachRow(rows, []any{&found.Stream, &found.Version, &found.State}, func() error {
				for _, i := range at[found.Stream] {
					out[i].snapshot, versions[i] = found, int32(found.Version) //nolint:gosec // the column is an integer
				}
				found.State = nil
				return nil
			})
			return err
		})
		if err := txn.Send(ctx, s.db, u, b); err != nil {
			return nil, txn.Classify(err, "read snapshots")
		}
	}
	b := &pgx.Batch{}
	b.Queue(eventsOf, names, versions).Query(func(rows pgx.Rows) error {
		var n int
		var r row
		_, err := pgx.ForEachRow(rows, append([]any{&n}, r.targets()...), func() error {
			event, err := s.decode(r)
			f := &out[n-1]
			f.events, f.err = append(f.events, event), cmp.Or(f.err, err)
			return nil
		})
		return err
	})
	if err := txn.Send(ctx, s.db, u, b); err != nil {
		return nil, txn.Classify(err, "read events")
	}
	return out, nil
}

func (r *row) targets() []any {
	return []any{&r.Stream, &r.Version, &r.Position, &r.Type, &r.Schema, &r.Payload, &r.Meta, &r.At}
}

// expectation is a version at which a stream must still be when a unit commits that has changed nothing in it.
type expectation struct {
	stream  string
	version int
}

var expect = &txn.Statement[expectation]{
	Doing: "compare what was read with what is stored", Rank: 10,
	Query: func(rows []expectation) (string, []any, error) {
		names, versions := make([]string, len(rows)), make([]int32, len(rows))
		for i, r := range rows {
			names[i], versions[i] = r.stream, int32(r.version)
		}
		return `SELECT demand(NOT EXISTS (SELECT FROM events WHERE stream = w.name AND version > w.version), 'MR002', w.name || ' has changed')
			FROM unnest($1::text[], $2::int[]) AS w(name, version)`, []any{names, versions}, nil
	},
}

var locks = &txn.Statement[string]{
	Doing: "lock streams that many want", Rank: 0, Contended: true, Locks: func(stream string) string { return stream },
	Query: func(streams []string) (string, []any, error) { return lockStreams, []any{streams}, nil },
}

// lockStreams locks in the order of the locks' own numbers, which is the same for everybody: no deadlock.
const lockStreams = `SELECT pg_advisory_xact_lock(n) FROM (
	SELECT DISTINCT hashtextextended(s, 0) AS n FROM unnest($1::text[]) s ORDER BY n OFFSET 0) numbers`

var saveSnapshots = &txn.Statement[snapshot]{
	Doing: "save snapshots", Rank: 40, Locks: func(s snapshot) string { return s.Stream },
	Query: func(rows []snapshot) (string, []any, error) {
		names, versions, states := make([]string, len(rows)), make([]int32, len(rows)), make([]string, len(rows))
		for i, r := range rows {
			names[i], versions[i], states[i] = r.Stream, int32(r.Version), string(r.State)
		}
		return `INSERT INTO snapshots (stream, version, state)
			SELECT DISTINCT ON (stream) stream, version, state::json FROM unnest($1::text[], $2::int[], $3::text[]) AS s(stream, version, state)
			ORDER BY stream, version DESC
			ON CONFLICT (stream) DO UPDATE SET version = excluded.version, state = excluded.state WHERE snapshots.version < excluded.version`,
			[]any{names, versions, states}, nil
	},
}

// snapshotOf keeps the state of an aggregate that has passed a multiple of every; nil if it has not.
func snapshotOf(name string, aggregate Aggregate, every int) (*snapshot, error) {
	before, after := aggregate.Version(), aggregate.Version()+len(aggregate.Changes())
	s, ok := aggregate.(Snapshotter)
	if !ok || every == 0 || before/every == after/every {
		return nil, nil
	}
	text, err := s.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", name, err)
	}
	return &snapshot{name, after, json.RawMessage(text)}, nil
}
