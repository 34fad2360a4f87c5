package postgres

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Idempotency keeps the answers to requests that bore a key, in the transaction that carries the request out.
type Idempotency struct{}

// Claim takes a key for a request (its hash) and notes the answer that it will get. If the key was taken before, the answer
// of that time is returned; a request that is being carried out at this moment is waited for. The error is app.ErrKeyReused if
// that request was another one.
func (Idempotency) Claim(ctx context.Context, owner, key string, request []byte, answer any) (earlier json.RawMessage, err error) {
	tx, err := txn.From(ctx)
	if err != nil {
		return nil, err
	}
	note, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	result, err := tx.ExecContext(ctx, `INSERT INTO idempotency_keys (owner, key, request, answer) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING`, owner, key, request, json.RawMessage(note))
	if err != nil {
		return nil, txn.Classify(err, "claim an idempotency key")
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return nil, err
	}
	var row struct {
		Request []byte          `db:"request"`
		Answer  json.RawMessage `db:"answer"`
	}
	err = tx.GetContext(ctx, &row, `SELECT request, answer FROM idempotency_keys WHERE owner = $1 AND key = $2`, owner, key)
	if err != nil {
		return nil, txn.Classify(err, "look up an idempotency key")
	}
	if !bytes.Equal(row.Request, request) {
		return nil, app.ErrKeyReused
	}
	return row.Answer, nil
}
