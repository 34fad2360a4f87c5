package eventstore

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Each calls fn for each stream that a query names in its first column, with the query's second column and all events of the stream,
// oldest first; none if nothing is stored under that name. If one of them cannot be decoded, fn gets that error. Only one stream is in
// memory at a time.
func (s *Store) Each(ctx context.Context, tx *sqlx.Tx, query string, fn func(stream string, row []byte, events []cqrs.Event, err error)) error {
	all := `
		SELECT n, name, CASE WHEN row_number() OVER (PARTITION BY n ORDER BY e.version) = 1 THEN value END AS value, e.version IS NOT NULL AS stored,
			COALESCE(e.version, 0) AS version, COALESCE(position, 0) AS position, COALESCE(type, '') AS type, COALESCE(schema, 0) AS schema,
			payload, meta, COALESCE(at, 'epoch') AS at
		FROM (SELECT row_number() OVER (ORDER BY name) AS n, name, value FROM (` + query + `) AS q(name, value)) named
		LEFT JOIN events e ON e.stream = named.name ORDER BY n, e.version`
	rows, err := tx.QueryxContext(ctx, all) //nolint:sqlclosecheck // it is, below
	if err != nil {
		return txn.Classify(err, "read streams")
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err's
	var current struct {
		n      int64
		stream string
		row    []byte
		events []cqrs.Event
		err    error
	}
	emit := func() {
		if current.n > 0 {
			fn(current.stream, current.row, current.events, current.err)
		}
	}
	for rows.Next() {
		var n int64
		var name string
		var value []byte
		var stored bool
		var r row
		if err := rows.Scan(&n, &name, &value, &stored, &r.Version, &r.Position, &r.Type, &r.Schema, &r.Payload, &r.Meta, &r.At); err != nil {
			return txn.Classify(err, "read streams")
		}
		if n != current.n {
			emit()
			current.n, current.stream, current.row, current.events, current.err = n, name, nil, nil, nil
		}
		if value != nil {
			current.row = value
		}
		if !stored || current.err != nil {
			continue
		}
		r.Stream = name
		event, err := s.decode(r)
		if err != nil {
			current.err = err
			continue
		}
		current.events = append(current.events, event)
	}
	emit()
	return txn.Classify(rows.Err(), "read streams")
}
