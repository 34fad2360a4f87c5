// Reading streams: one query reads the streams of concurrent units, each by a look-up in the index. A stream with a gap is refused. A stream that cannot be read does not affect the
// others. TestLoadRefusesAGapInAStream, TestAnUnreadableStreamIsNobodyElsesFault and TestEventLoadsIsolateAPanic show it.

package eventstore

import (
	"cmp"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// wanted is a request for a stream.
type wanted struct {
	stream string
	after  *prefix // load only the events after it; nil: all events
	schema string  // of a snapshot from which to start; empty: from the first event on
}

// found is the stored events of a stream. Err says that the stream cannot be read; other streams of the same query can.
type found struct {
	prefix *prefix
	err    error
}

// whole returns the prefixes, or an error if one of the streams cannot be read.
func whole(streams []found, err error) ([]*prefix, error) {
	if err != nil {
		return nil, err
	}
	out := make([]*prefix, len(streams))
	for i, f := range streams {
		if f.err != nil {
			return nil, f.err
		}
		out[i] = f.prefix
	}
	return out, nil
}

// LATERAL and OFFSET 0 keep the planner at a look into the index for each stream. A plan that it makes while the table is small, and keeps,
// would read all of it.
const (
	snapshotsOf = `
		SELECT w.n, s.version, s.state FROM unnest($1::int[], $2::text[], $3::text[]) AS w(n, name, schema)
		CROSS JOIN LATERAL (SELECT * FROM snapshots WHERE stream = w.name AND schema = w.schema OFFSET 0) s`
	eventsOf = `
		SELECT w.n, ` + columns + ` FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS w(name, after, n)
		CROSS JOIN LATERAL (SELECT * FROM events WHERE stream = w.name AND version > w.after ORDER BY version OFFSET 0) e`
)

// loadMany reads the streams of several calls with one query.
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
	from := make([]prefix, len(all)) // of each stream: the cached prefix, its snapshot, or nothing
	var places []int32
	var streams, schemas []string
	for i, w := range all {
		switch {
		case w.after != nil:
			from[i] = *w.after
		case w.schema != "":
			places, streams, schemas = append(places, int32(i)), append(streams, w.stream), append(schemas, w.schema)
		}
	}
	if len(places) > 0 {
		b := &pgx.Batch{}
		b.Queue(snapshotsOf, places, streams, schemas).Query(func(rows pgx.Rows) error {
			var n, version int
			var state []byte
			_, err := pgx.ForEachRow(rows, []any{&n, &version, &state}, func() error {
				from[n].snapshot = snapshot{all[n].stream, version, all[n].schema, state}
				state = nil
				return nil
			})
			return err
		})
		if err := txn.Send(ctx, s.db, u, b); err != nil {
			return nil, txn.Classify(err, "read snapshots")
		}
	}
	names, versions := make([]string, len(all)), make([]int32, len(all))
	for i, w := range all {
		names[i], versions[i] = w.stream, int32(from[i].version()) //nolint:gosec // the column is an integer
	}
	later, out := make([][]cqrs.Event, len(all)), make([]found, len(all))
	b := &pgx.Batch{}
	b.Queue(eventsOf, names, versions).Query(func(rows pgx.Rows) error {
		var n int
		var r row
		_, err := pgx.ForEachRow(rows, append([]any{&n}, r.targets()...), func() error {
			i := n - 1
			expected := from[i].version() + len(later[i]) + 1
			event, err := s.decode(r)
			if r.Version != expected {
				err = fmt.Errorf("stream %s has a gap: expected version %d, found %d: %w", r.Stream, expected, r.Version, cqrs.ErrPermanent)
			}
			later[i], out[i].err = append(later[i], event), cmp.Or(out[i].err, err)
			return nil
		})
		return err
	})
	if err := txn.Send(ctx, s.db, u, b); err != nil {
		return nil, txn.Classify(err, "read events")
	}
	for i := range out {
		if out[i].prefix = all[i].after; out[i].prefix == nil || len(later[i]) > 0 {
			out[i].prefix = from[i].with(later[i])
		}
	}
	return out, nil
}

func (r *row) targets() []any {
	return []any{&r.Stream, &r.Version, &r.Position, &r.Type, &r.Schema, &r.Payload, &r.Meta, &r.At}
}

// changed is the condition that a stream is not at the version at which it was read. A version that was read may be missing after
// a database was restored from a backup. OFFSET 0 keeps PostgreSQL from reading the whole table into a hash table.
const changed = `EXISTS (SELECT FROM events WHERE stream = w.name AND version > w.version OFFSET 0)
	OR w.version > 0 AND NOT EXISTS (SELECT FROM events WHERE stream = w.name AND version = w.version OFFSET 0)`

// expect fails a commit if a stream is not at the version at which a unit has read it.
var expect = &txn.Statement[read]{
	Doing: "compare what was read with what is stored", Rank: 10,
	Query: func(rows []read) (string, []any, error) {
		names, versions := columnsOf(rows)
		return `SELECT demand(NOT (` + changed + `), 'MR002', w.name || ' has changed') FROM unnest($1::text[], $2::int[]) AS w(name, version)`,
			[]any{names, versions}, nil
	},
}

func columnsOf(reads []read) (names []string, versions []int32) {
	for _, r := range reads {
		names, versions = append(names, r.stream), append(versions, int32(r.version)) //nolint:gosec // the column is an integer
	}
	return names, versions
}

// stale returns the reads whose streams are at other versions now.
func (s *Store) stale(ctx context.Context, reads []read) ([]read, error) {
	var at []int
	names, versions := columnsOf(reads)
	b := &pgx.Batch{}
	b.Queue(`SELECT w.n - 1 FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS w(name, version, n) WHERE `+changed, names, versions).
		Query(func(rows pgx.Rows) (err error) {
			at, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		})
	if err := txn.Send(ctx, s.db, nil, b); err != nil {
		return nil, txn.Classify(err, "compare what was read with what is stored")
	}
	out := make([]read, len(at))
	for i, n := range at {
		out[i] = reads[n]
	}
	return out, nil
}

var locks = &txn.Statement[string]{
	Doing: "lock streams that many want", Rank: 0, Contended: true, Locks: func(stream string) string { return stream },
	Query: func(streams []string) (string, []any, error) { return lockStreams, []any{streams}, nil },
}

// lockStreams locks in the order of the locks' numbers, which is the same for all transactions, so that they do not deadlock.
const lockStreams = `SELECT pg_advisory_xact_lock(n) FROM (
	SELECT DISTINCT hashtextextended(current_schema() || ' ' || s, 0) AS n FROM unnest($1::text[]) s ORDER BY n OFFSET 0) numbers`
