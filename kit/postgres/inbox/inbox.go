// Package inbox remembers which messages were handled, and keeps the barrier between a saga's commands and their
// compensations. Both live in one table and in the transaction that handles the message. The barrier is the idea of dtm's
// sub-transaction barrier (https://en.dtm.pub/practice/barrier.html).
package inbox

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Inbox is the table.
type Inbox struct {
	db      *sqlx.DB
	lookups txn.Batcher[lookup, []row]
	ahead   txn.Prefetch[place, []row]
	doubt   atomic.Int64 // until when, in nanoseconds since 1970, repetitions are to be expected

	// DoubtFor is for how long every message is looked up after one came again. Repetitions come in numbers: after a crash, or when
	// another instance takes over. Default 10 s.
	DoubtFor time.Duration
}

// place is a message at a consumer.
type place struct{ consumer, id string }

// lookupTimeout bounds one reading of the table.
const lookupTimeout = 15 * time.Second

// New makes an Inbox.
func New(db *sqlx.DB) *Inbox {
	i := &Inbox{db: db, DoubtFor: 10 * time.Second}
	i.lookups.Do, i.lookups.Max, i.lookups.Parallel = i.lookUp, 500, 1
	return i
}

// Doubt has every message looked up for a while.
func (i *Inbox) Doubt() { i.doubt.Store(time.Now().Add(i.DoubtFor).UnixNano()) }

// Trusts tells whether a message may be taken for new without looking: its claim fails if it is not. That a compensation finds its
// action is never taken for granted.
func (i *Inbox) Trusts(m cqrs.Meta) bool {
	return m.Branch != cqrs.BranchCompensation && time.Now().UnixNano() > i.doubt.Load()
}

// TryInsert claims a message that is taken for new.
func TryInsert(ctx context.Context, consumer string, m cqrs.Meta) error {
	if err := check(m); err != nil {
		return err
	}
	return claims.Write(ctx, claim(consumer, m))
}

func claim(consumer string, m cqrs.Meta) *row {
	return &row{consumer, m.ID, m.SagaID, m.SagaStep, m.Branch, cqrs.Processed}
}

// row is a row of the table. One with a branch stands in the way of all other messages of its saga's step and branch.
type row struct {
	consumer, id string
	saga, step   string
	branch       cqrs.Branch
	outcome      cqrs.Outcome
}

// claims fails with cqrs.ErrConflict if somebody else has written such a row meanwhile; notes leaves it as it is.
var (
	claims = &txn.Statement[*row]{Doing: "claim messages", Rank: 5, Query: insert(""), Locks: func(r *row) string { return r.consumer + "/" + r.id }}
	notes  = &txn.Statement[*row]{Doing: "note messages", Rank: 6, Query: insert(" ON CONFLICT DO NOTHING")}
)

func insert(otherwise string) func(rows []*row) (string, []any, error) {
	return func(rows []*row) (string, []any, error) {
		n := len(rows)
		consumers, ids, sagas, steps, branches, outcomes := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		for i, r := range rows {
			consumers[i], ids[i], sagas[i], steps[i], branches[i], outcomes[i] = r.consumer, r.id, r.saga, r.step, string(r.branch), string(r.outcome)
		}
		return `INSERT INTO inbox (consumer, message_id, saga_id, saga_step, branch, outcome)
			SELECT consumer, id, NULLIF(saga, ''), NULLIF(step, ''), NULLIF(branch, ''), outcome
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS m(consumer, id, saga, step, branch, outcome)` + otherwise,
			[]any{consumers, ids, sagas, steps, branches, outcomes}, nil
	}
}

type lookup struct {
	consumer string
	meta     cqrs.Meta
}

// lookUp finds the rows of messages, and those of the same saga's step.
func (i *Inbox) lookUp(asked []lookup) ([][]row, error) {
	return i.read(context.Background(), nil, asked)
}

func (i *Inbox) read(ctx context.Context, u *txn.Unit, asked []lookup) ([][]row, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	n := len(asked)
	consumers, ids := make([]string, n), make([]string, n)
	var places []int32
	var barred, sagas, steps []string
	for k, l := range asked {
		consumers[k], ids[k] = l.consumer, l.meta.ID
		if l.meta.Branch != "" {
			places = append(places, int32(k+1))
			barred, sagas, steps = append(barred, l.consumer), append(sagas, l.meta.SagaID), append(steps, l.meta.SagaStep)
		}
	}
	out := make([][]row, n)
	read := func(rows pgx.Rows) error {
		var at int
		var r row
		_, err := pgx.ForEachRow(rows, []any{&at, &r.id, &r.branch, &r.outcome}, func() error {
			out[at-1] = append(out[at-1], r)
			return nil
		})
		return err
	}
	b := &pgx.Batch{}
	b.Queue(`SELECT w.n::int, i.message_id, COALESCE(i.branch, ''), i.outcome FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(consumer, id, n)
		CROSS JOIN LATERAL (SELECT * FROM inbox WHERE consumer = w.consumer AND message_id = w.id OFFSET 0) i`, consumers, ids).Query(read)
	if len(places) > 0 {
		b.Queue(`SELECT w.n, i.message_id, i.branch, i.outcome FROM unnest($1::int[], $2::text[], $3::text[], $4::text[]) AS w(n, consumer, saga, step)
			CROSS JOIN LATERAL (SELECT * FROM inbox
				WHERE consumer = w.consumer AND saga_id = w.saga AND saga_step = w.step AND branch IS NOT NULL OFFSET 0) i`,
			places, barred, sagas, steps).Query(read)
	}
	if err := txn.Send(ctx, i.db, u, b); err != nil {
		return nil, txn.Classify(err, "look up messages")
	}
	return out, nil
}

// check refuses ids that the table cannot hold, before they join a query or a commit with those of other messages.
func check(m cqrs.Meta) error {
	return cmp.Or(
		cqrs.CheckText("message id", m.ID, maxID),
		cqrs.CheckText("saga id", m.SagaID, maxID),
		cqrs.CheckText("saga step", m.SagaStep, maxID),
	)
}

// maxID holds the longest source and the longest id of another service's message, as cqrs.InboxID composes them.
const maxID = 2*cqrs.MaxKey + 16

// Expect has a message looked up that will come. What is found may be out of date when it comes; then its claim fails.
func (i *Inbox) Expect(consumer string, m cqrs.Meta) {
	if check(m) != nil {
		return // Take says so
	}
	i.ahead.Expect(place{consumer, m.ID}, i.lookups.Join(lookup{consumer, m}))
}

// find is what is known of a message, in the transaction of ctx if there is one.
func (i *Inbox) find(ctx context.Context, consumer string, m cqrs.Meta) ([]row, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	if u := txn.UnitFromContext(ctx); u != nil && u.OwnTransaction() {
		rows, err := i.read(ctx, u, []lookup{{consumer, m}})
		if err != nil {
			return nil, err
		}
		return rows[0], nil
	}
	if expected := i.ahead.Take(place{consumer, m.ID}); expected != nil {
		return expected(ctx)
	}
	return i.lookups.Call(ctx, lookup{consumer, m})
}

// TryInsert claims a message for a consumer in the unit of work of ctx. If somebody else claims the same meanwhile, the unit fails with
// cqrs.ErrConflict, and the next attempt finds what he has made of it.
func (i *Inbox) TryInsert(ctx context.Context, consumer string, m cqrs.Meta) (cqrs.Outcome, error) {
	known, err := i.find(ctx, consumer, m)
	if err != nil {
		return "", err
	}
	outcome, done := judge(known, m)
	if outcome != cqrs.Processed {
		i.Doubt()
	}
	switch {
	case outcome == cqrs.RejectedLate:
		return outcome, Record(ctx, consumer, m, cqrs.RejectedLate)
	case outcome == cqrs.Duplicate:
		return outcome, nil
	case m.Branch == cqrs.BranchCompensation && !done:
		// Taking the place of the action as well bars it; that the place was free tells that it never happened.
		bar := &row{consumer, "bar/" + m.ID, m.SagaID, m.SagaStep, cqrs.BranchAction, cqrs.RejectedLate}
		if err := claims.Write(ctx, bar); err != nil {
			return "", err
		}
		outcome = cqrs.NothingToCompensate
	}
	return outcome, claims.Write(ctx, claim(consumer, m))
}

// judge tells whether a message is to be handled, and whether the action that it undoes was.
func judge(known []row, m cqrs.Meta) (outcome cqrs.Outcome, done bool) {
	outcome = cqrs.Processed
	for _, r := range known {
		done = done || r.branch == cqrs.BranchAction
		switch {
		case r.id == m.ID:
			return cqrs.Duplicate, done
		case m.Branch != "" && r.branch == m.Branch && r.outcome == cqrs.RejectedLate:
			outcome = cqrs.RejectedLate
		case m.Branch != "" && r.branch == m.Branch:
			outcome = cqrs.Duplicate
		}
	}
	return outcome, done
}

// LookUp tells what Take would say, without claiming. It is for asking a service outside only if there is a point to it.
func (i *Inbox) LookUp(ctx context.Context, consumer string, m cqrs.Meta) (cqrs.Outcome, error) {
	known, err := i.find(ctx, consumer, m)
	outcome, _ := judge(known, m)
	if err == nil && outcome != cqrs.Processed {
		i.Doubt()
	}
	return outcome, err
}

// Record notes an outcome of a message that has no effect: it does not stand in the way of the step's other messages.
func Record(ctx context.Context, consumer string, m cqrs.Meta, outcome cqrs.Outcome) error {
	return notes.Write(ctx, &row{consumer, m.ID, m.SagaID, m.SagaStep, "", outcome})
}

// Refuse changes the claim of this unit of work to a refusal. It had no effect, so it is no barrier: the same may be asked again,
// by another message.
func Refuse(ctx context.Context, consumer, messageID string) error {
	for _, r := range claims.Written(ctx) {
		if r.consumer == consumer && r.id == messageID {
			r.branch, r.outcome = "", cqrs.Refused
			return nil
		}
	}
	return fmt.Errorf("refuse message %s: it was not claimed", messageID)
}
