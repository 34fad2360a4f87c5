package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

// Idempotency keeps the answers to requests that bore a key, in the unit of work that carries the request out.
type Idempotency struct {
	db      *sqlx.DB
	lookups txn.Gather[idempotencyKey, *idempotencyRow]
}

type idempotencyKey struct{ owner, key string }

type idempotencyRow struct {
	idempotencyKey
	request []byte
	answer  json.RawMessage
}

// NewIdempotency makes it.
func NewIdempotency(db *sqlx.DB) *Idempotency {
	i := &Idempotency{db: db}
	i.lookups.Do, i.lookups.Max, i.lookups.Parallel = i.lookUp, 500, 2
	return i
}

var keepAnswers = &txn.Statement[idempotencyRow]{
	Doing: "claim idempotency keys", Rank: 1, Locks: func(r idempotencyRow) string { return r.owner + "/" + r.key },
	Query: func(rows []idempotencyRow) (string, []any, error) {
		n := len(rows)
		owners, keys, requests, answers := make([]string, n), make([]string, n), make([][]byte, n), make([]string, n)
		for i, r := range rows {
			owners[i], keys[i], requests[i], answers[i] = r.owner, r.key, r.request, string(r.answer)
		}
		return `INSERT INTO idempotency_keys (owner, key, request, answer)
			SELECT owner, key, request, answer::json FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) AS k(owner, key, request, answer)`,
			[]any{owners, keys, requests, answers}, nil
	},
}

// Claim takes a key for a request (its hash) and notes the answer that it will get. If the key was taken before, the answer of that
// time is returned; if it is taken at this moment, the unit of work fails with app.ErrConflict, and its next attempt finds the answer.
// The error is app.ErrKeyReused if that request was another one.
func (i *Idempotency) Claim(ctx context.Context, owner, key string, request []byte, answer any) (earlier json.RawMessage, err error) {
	if txn.Of(ctx) == nil {
		return nil, errors.New("claim an idempotency key: called outside a unit of work")
	}
	if err := cmp.Or(app.CheckText("Idempotency-Key", key, app.MaxKey), app.CheckText("owner of the Idempotency-Key", owner, app.MaxKey)); err != nil {
		return nil, err
	}
	note, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	known, err := i.find(ctx, idempotencyKey{owner, key})
	switch {
	case err != nil:
		return nil, err
	case known == nil:
		return nil, keepAnswers.Write(ctx, idempotencyRow{idempotencyKey{owner, key}, request, note})
	case !bytes.Equal(known.request, request):
		return nil, app.ErrKeyReused
	}
	return known.answer, nil
}

// find reads what is stored under a key. A unit with a transaction of its own reads in it: it holds a connection, and must not wait for
// another one.
func (i *Idempotency) find(ctx context.Context, k idempotencyKey) (*idempotencyRow, error) {
	u := txn.Of(ctx)
	if !u.Own() {
		return i.lookups.Call(ctx, k)
	}
	found, err := i.read(ctx, u, []idempotencyKey{k})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (i *Idempotency) lookUp(asked []idempotencyKey) ([]*idempotencyRow, error) {
	return i.read(context.Background(), nil, asked)
}

func (i *Idempotency) read(ctx context.Context, u *txn.Unit, asked []idempotencyKey) ([]*idempotencyRow, error) {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	owners, keys, out := make([]string, len(asked)), make([]string, len(asked)), make([]*idempotencyRow, len(asked))
	for n, k := range asked {
		owners[n], keys[n] = k.owner, k.key
	}
	b := &pgx.Batch{}
	b.Queue(`SELECT w.n::int, k.request, k.answer FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(owner, key, n)
		CROSS JOIN LATERAL (SELECT * FROM idempotency_keys WHERE owner = w.owner AND key = w.key OFFSET 0) k`, owners, keys).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			r := &idempotencyRow{}
			if err := rows.Scan(&n, &r.request, &r.answer); err != nil {
				return err
			}
			out[n-1] = r
		}
		return rows.Err()
	})
	return out, txn.Classify(txn.Send(ctx, i.db, u, b), "look up idempotency keys")
}
