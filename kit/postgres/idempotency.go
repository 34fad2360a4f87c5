// Idempotency keys of requests. The transaction of the first request with a key stores its response, and every later request with the key gets that response.
// TestIdempotencyKeyIsTakenOnce shows it.

package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Idempotency stores the responses to requests with an idempotency key, in the unit of work of the request.
type Idempotency struct {
	db      *sqlx.DB
	lookups txn.Batcher[cqrs.IdempotencyKey, *idempotencyRow]
}

type idempotencyRow struct {
	cqrs.IdempotencyKey
	request []byte
	answer  cqrs.StoredResponse
}

// NewIdempotency makes an Idempotency.
func NewIdempotency(db *sqlx.DB) *Idempotency {
	i := &Idempotency{db: db}
	i.lookups.Do, i.lookups.Max, i.lookups.Parallel = i.lookUp, 500, 2
	return i
}

var keepAnswers = &txn.Statement[idempotencyRow]{
	Doing: "insert idempotency keys", Rank: 1, Locks: func(r idempotencyRow) string { return r.Owner + "/" + r.Scope + "/" + r.Key },
	Query: func(rows []idempotencyRow) (string, []any, error) {
		n := len(rows)
		owners, scopes, keys, requests := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
		statuses, locations, answers := make([]int32, n), make([]string, n), make([]string, n)
		for i, r := range rows {
			owners[i], scopes[i], keys[i], requests[i] = r.Owner, r.Scope, r.Key, r.request
			statuses[i], locations[i], answers[i] = int32(r.answer.Status), r.answer.Location, string(r.answer.Body)
		}
		return `INSERT INTO idempotency_keys (owner, scope, key, request, status, location, answer)
			SELECT owner, scope, key, request, status, location, answer::json
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::int[], $6::text[], $7::text[]) AS k(owner, scope, key, request, status, location, answer)`,
			[]any{owners, scopes, keys, requests, statuses, locations, answers}, nil
	},
}

// Find returns the response to an earlier request with this key, nil if there is none. Request is the request's hash; the error is
// cqrs.ErrKeyReused if the key was used for another request.
func (i *Idempotency) Find(ctx context.Context, key cqrs.IdempotencyKey, request []byte) (*cqrs.StoredResponse, error) {
	if txn.UnitFromContext(ctx) == nil {
		return nil, errors.New("find an idempotency key: called outside a unit of work")
	}
	if err := cmp.Or(cqrs.CheckText("Idempotency-Key", key.Key, cqrs.MaxKey), cqrs.CheckText("owner of the Idempotency-Key", key.Owner, cqrs.MaxKey), cqrs.CheckText("path", key.Scope, 2*cqrs.MaxKey)); err != nil {
		return nil, err
	}
	known, err := i.find(ctx, key)
	switch {
	case err != nil || known == nil:
		return nil, err
	case len(known.request) == len(request) && !bytes.Equal(known.request, request): // versions before 00010 kept hashes of another length
		return nil, cqrs.ErrKeyReused
	}
	return &known.answer, nil
}

// Keep stores the response when the unit of work of ctx commits, together with the effects of the request. If another unit of work has used
// the key meanwhile, this one fails with cqrs.ErrConflict, and its next attempt finds that response.
func (i *Idempotency) Keep(ctx context.Context, key cqrs.IdempotencyKey, request []byte, answer cqrs.StoredResponse) error {
	return keepAnswers.Write(ctx, idempotencyRow{key, request, answer})
}

// find reads the row of a key. A unit with a transaction of its own reads in it: the unit holds a connection, and must not wait for another
// one.
func (i *Idempotency) find(ctx context.Context, k cqrs.IdempotencyKey) (*idempotencyRow, error) {
	u := txn.UnitFromContext(ctx)
	if !u.OwnTransaction() {
		return i.lookups.Call(ctx, k)
	}
	found, err := i.read(ctx, u, []cqrs.IdempotencyKey{k})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (i *Idempotency) lookUp(asked []cqrs.IdempotencyKey) ([]*idempotencyRow, error) {
	return i.read(context.Background(), nil, asked)
}

func (i *Idempotency) read(ctx context.Context, u *txn.Unit, asked []cqrs.IdempotencyKey) ([]*idempotencyRow, error) {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	owners, scopes, keys := make([]string, len(asked)), make([]string, len(asked)), make([]string, len(asked))
	for n, k := range asked {
		owners[n], scopes[n], keys[n] = k.Owner, k.Scope, k.Key
	}
	out := make([]*idempotencyRow, len(asked))
	b := &pgx.Batch{}
	b.Queue(`SELECT w.n::int, k.request, k.status, k.location, k.answer FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w(owner, scope, key, n)
		CROSS JOIN LATERAL (SELECT * FROM idempotency_keys WHERE owner = w.owner AND scope = w.scope AND key = w.key OFFSET 0) k`, owners, scopes, keys).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			r := &idempotencyRow{}
			if err := rows.Scan(&n, &r.request, &r.answer.Status, &r.answer.Location, &r.answer.Body); err != nil {
				return err
			}
			out[n-1] = r
		}
		return rows.Err()
	})
	return out, txn.Classify(txn.Send(ctx, i.db, u, b), "look up idempotency keys")
}
