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
	db          *sqlx.DB
	lookups     txn.Batcher[lookup, []row]
	prefetch    txn.Prefetch[deliveryKey, []row]
	verifyUntil atomic.Int64 // until when, in nanoseconds since 1970, repetitions are to be expected

	// VerifyFor is for how long every message is looked up after one came again. Repetitions come in numbers: after a crash, or when
	// another instance takes over. Default 10 s.
	VerifyFor time.Duration
}

// deliveryKey is a message at a consumer.
type deliveryKey struct{ consumer, id string }

// lookupTimeout bounds one reading of the table.
const lookupTimeout = 15 * time.Second

// New makes an Inbox.
func New(db *sqlx.DB) *Inbox {
	i := &Inbox{db: db, VerifyFor: 10 * time.Second}
	i.lookups.Do, i.lookups.Max, i.lookups.Parallel = i.lookUp, 500, 1
	return i
}

// VerifyDuplicates has every message looked up for a while.
func (i *Inbox) VerifyDuplicates() { i.verifyUntil.Store(time.Now().Add(i.VerifyFor).UnixNano()) }

// Optimistic tells whether a message may be taken for new without looking: its claim fails if it is not. That a compensation finds its
// action is never taken for granted.
func (i *Inbox) Optimistic(m cqrs.Meta) bool {
	return m.Branch != cqrs.BranchCompensation && time.Now().UnixNano() > i.verifyUntil.Load()
}

// TryInsert claims a message that is taken for new.
func TryInsert(ctx context.Context, consumer string, m cqrs.Meta) error {
	if err := check(m); err != nil {
		return err
	}
	return inserted.Write(ctx, newRow(consumer, m))
}

func newRow(consumer string, m cqrs.Meta) *row {
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
	inserted = &txn.Statement[*row]{Doing: "claim messages", Rank: 5, Query: insert(""), Locks: func(r *row) string { return r.consumer + "/" + r.id }}
	noted    = &txn.Statement[*row]{Doing: "note messages", Rank: 6, Query: insert(" ON CONFLICT DO NOTHING")}
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
	var barrierConsumers, sagas, steps []string
	for k, l := range asked {
		consumers[k], ids[k] = l.consumer, l.meta.ID
		if l.meta.Branch != "" {
			places = append(places, int32(k+1))
			barrierConsumers, sagas, steps = append(barrierConsumers, l.consumer), append(sagas, l.meta.SagaID), append(steps, l.meta.SagaStep)
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
			places, barrierConsumers, sagas, steps).Query(read)
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

// Prefetch has a message looked up that will come. What is found may be out of date when it comes; then its claim fails.
func (i *Inbox) Prefetch(consumer string, m cqrs.Meta) {
	if check(m) != nil {
		return // Take says so
	}
	i.prefetch.Add(deliveryKey{consumer, m.ID}, i.lookups.Enqueue(lookup{consumer, m}))
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
	if expected := i.prefetch.Take(deliveryKey{consumer, m.ID}); expected != nil {
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
	outcome, done := outcomeOf(known, m)
	if outcome != cqrs.Processed {
		i.VerifyDuplicates()
	}
	switch {
	case outcome == cqrs.RejectedLate:
		return outcome, Record(ctx, consumer, m, cqrs.RejectedLate)
	case outcome == cqrs.Duplicate:
		return outcome, nil
	case m.Branch == cqrs.BranchCompensation && !done:
		// Taking the place of the action as well bars it; that the place was free tells that it never happened.
		barrier := &row{consumer, "bar/" + m.ID, m.SagaID, m.SagaStep, cqrs.BranchAction, cqrs.RejectedLate}
		if err := inserted.Write(ctx, barrier); err != nil {
			return "", err
		}
		outcome = cqrs.NothingToCompensate
	}
	return outcome, inserted.Write(ctx, newRow(consumer, m))
}

// judge tells whether a message is to be handled, and whether the action that it undoes was.
func outcomeOf(known []row, m cqrs.Meta) (outcome cqrs.Outcome, done bool) {
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
	outcome, _ := outcomeOf(known, m)
	if err == nil && outcome != cqrs.Processed {
		i.VerifyDuplicates()
	}
	return outcome, err
}

// Record notes an outcome of a message that has no effect: it does not stand in the way of the step's other messages.
func Record(ctx context.Context, consumer string, m cqrs.Meta, outcome cqrs.Outcome) error {
	return noted.Write(ctx, &row{consumer, m.ID, m.SagaID, m.SagaStep, "", outcome})
}

// Refuse changes the claim of this unit of work to a refusal. It had no effect, so it is no barrier: the same may be asked again,
// by another message.
func Refuse(ctx context.Context, consumer, messageID string) error {
	for _, r := range inserted.Written(ctx) {
		if r.consumer == consumer && r.id == messageID {
			r.branch, r.outcome = "", cqrs.Refused
			return nil
		}
	}
	return fmt.Errorf("refuse message %s: it was not claimed", messageID)
}
