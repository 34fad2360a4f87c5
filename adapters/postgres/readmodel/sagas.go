package readmodel

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/sagas"
	"github.com/millrace/millrace/sagas/saga"
)

// Sagas is the list of saga instances.
type Sagas struct{ db *sqlx.DB }

// NewSagas makes it.
func NewSagas(db *sqlx.DB) Sagas { return Sagas{db} }

// State implements sagas.Rows.
func (r Sagas) State(ctx context.Context, id string) (saga.State, error) {
	states, err := r.query(ctx, `SELECT state FROM saga_rows WHERE saga_id = $1`, id)
	if err != nil || len(states) == 0 {
		return saga.State{}, err
	}
	return states[0], nil
}

// Save implements sagas.Rows.
func (r Sagas) Save(ctx context.Context, s saga.State) error {
	state, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = r.db.ExecContext(ctx, `
		INSERT INTO saga_rows (saga_id, definition, subject, status, started_at, version, state) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (saga_id) DO UPDATE SET status = excluded.status, version = excluded.version, state = excluded.state
		WHERE saga_rows.version < excluded.version`,
		s.ID, s.Definition, s.Subject, s.Status, s.StartedAt, s.Version, json.RawMessage(state))
	return txn.Classify(err, "save the row of saga "+s.ID)
}

// List implements sagas.Rows.
func (r Sagas) List(ctx context.Context, q sagas.List) ([]saga.State, error) {
	return r.query(ctx, `SELECT state FROM saga_rows WHERE ($1 = '' OR status = $1) AND (started_at, saga_id) < ($2, $3)
		ORDER BY started_at DESC, saga_id DESC LIMIT $4`, string(q.Status), q.Before.At, q.Before.ID, q.Limit)
}

func (r Sagas) query(ctx context.Context, query string, args ...any) ([]saga.State, error) {
	var rows [][]byte
	if err := r.db.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, txn.Classify(err, "read sagas")
	}
	states := make([]saga.State, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal(row, &states[i]); err != nil {
			return nil, fmt.Errorf("a saga's row: %w", err)
		}
	}
	return states, nil
}

// OpenSagas are sagas of a definition that stand at a status.
type OpenSagas struct {
	Definition string      `db:"definition"`
	Status     saga.Status `db:"status"`
}

// Open counts the sagas that have not ended.
func (r Sagas) Open(ctx context.Context) (map[OpenSagas]int, error) {
	var rows []struct {
		OpenSagas
		N int `db:"n"`
	}
	err := r.db.SelectContext(ctx, &rows, `SELECT definition, status, count(*) AS n FROM saga_rows
		WHERE status IN ('running', 'compensating', 'stuck') GROUP BY definition, status`)
	if err != nil {
		return nil, txn.Classify(err, "count sagas")
	}
	open := map[OpenSagas]int{}
	for _, row := range rows {
		open[row.OpenSagas] = row.N
	}
	return open, nil
}
