package readmodel

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Sagas is the list of saga instances.
type Sagas struct{ db *sqlx.DB }

// NewSagas makes a Sagas.
func NewSagas(db *sqlx.DB) Sagas { return Sagas{db} }

// Save implements manager.Rows.
func (r Sagas) Save(ctx context.Context, s saga.State) error { return saveSagas.Write(ctx, s) }

var saveSagas = &txn.Statement[saga.State]{
	Doing: "list sagas", Rank: 45, Locks: func(s saga.State) string { return s.ID },
	Query: func(rows []saga.State) (string, []any, error) {
		n := len(rows)
		ids, definitions, subjects, statuses, started, versions := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]time.Time, n), make([]int32, n)
		roots := make([]*string, n)
		for i, r := range rows {
			ids[i], definitions[i], subjects[i], statuses[i], started[i], versions[i] = r.ID, r.Definition, r.Subject, string(r.Status), r.StartedAt, int32(r.Version)
			if r.Parent != nil {
				roots[i] = &r.Parent.Root
			}
		}
		return `
			INSERT INTO saga_instances AS s (saga_id, definition, subject, status, started_at, version, root_id)
			SELECT DISTINCT ON (id) id, definition, subject, status, started, version, root
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[], $7::text[]) AS r(id, definition, subject, status, started, version, root)
			ORDER BY id, version DESC
			ON CONFLICT (saga_id) DO UPDATE SET status = excluded.status, version = excluded.version WHERE s.version < excluded.version`,
			[]any{ids, definitions, subjects, statuses, started, versions, roots}, nil
	},
}

// List implements sagas.Rows.
func (r Sagas) List(ctx context.Context, q manager.List) (ids []string, err error) {
	err = r.db.SelectContext(ctx, &ids, `SELECT saga_id FROM saga_instances WHERE ($1 = '' OR status = $1) AND (started_at, saga_id) < ($2, $3)
		ORDER BY started_at DESC, saga_id DESC LIMIT $4`, string(q.Status), q.Before.At, q.Before.ID, q.Limit)
	return ids, txn.Classify(err, "list sagas")
}

// Count counts the sagas that have not ended, up to atMost of each status.
func (r Sagas) Count(ctx context.Context, atMost int) (map[saga.Status]int, error) {
	return CountByStatus[saga.Status](ctx, r.db, "saga_instances", atMost, saga.StatusRunning, saga.StatusCompensating, saga.StatusStuck)
}

// SagaVersion is a version of a saga's definition.
type SagaVersion struct {
	Definition string `db:"definition"`
	Version    int    `db:"version"`
}

// Versions counts the sagas that have not ended by the version of their definition. It looks at each of them.
func (r Sagas) Versions(ctx context.Context) (map[SagaVersion]int, error) {
	var rows []struct {
		SagaVersion
		N int `db:"n"`
	}
	err := r.db.SelectContext(ctx, &rows, `SELECT e.definition, e.version, count(*) AS n FROM saga_instances s CROSS JOIN LATERAL (
			SELECT payload->>'definition' AS definition, (payload->>'version')::int AS version FROM events WHERE stream = $1 || s.saga_id AND version = 1 OFFSET 0) e
		WHERE s.status IN ('running', 'compensating', 'stuck') AND e.definition IS NOT NULL AND e.version IS NOT NULL GROUP BY e.definition, e.version`, saga.Category+"/")
	if err != nil {
		return nil, txn.Classify(err, "count sagas by version")
	}
	open := map[SagaVersion]int{}
	for _, row := range rows {
		open[row.SagaVersion] = row.N
	}
	return open, nil
}

// OpenSagas identifies the active sagas of a definition with a status.
type OpenSagas struct {
	Definition string      `db:"definition"`
	Status     saga.Status `db:"status"`
}

// Open counts the sagas that have not ended by definition and status, up to atMost of each.
func (r Sagas) Open(ctx context.Context, atMost int) (map[OpenSagas]int, error) {
	var rows []struct {
		OpenSagas
		N int `db:"n"`
	}
	err := r.db.SelectContext(ctx, &rows, `SELECT definition, w.status, count(*) AS n FROM unnest(ARRAY['running', 'compensating', 'stuck']) AS w(status)
		CROSS JOIN LATERAL (SELECT definition FROM saga_instances WHERE status = w.status LIMIT $1) found GROUP BY definition, w.status`, atMost)
	if err != nil {
		return nil, txn.Classify(err, "count sagas")
	}
	open := map[OpenSagas]int{}
	for _, row := range rows {
		open[row.OpenSagas] = row.N
	}
	return open, nil
}
