// Package inbox stores the ids of processed messages, so that a message takes effect once, and keeps the barrier between the commands of a
// saga and their compensations. Both are rows of one table, written in the transaction that processes the message. The barrier is the idea of
// dtm's sub-transaction barrier (https://en.dtm.pub/practice/barrier.html).
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

// Inbox is the table of processed messages.
type Inbox struct {
	db          *sqlx.DB
	lookups     txn.Batcher[lookup, []row]
	verifyUntil atomic.Int64 // all messages are looked up until this time, in nanoseconds since 1970

	// VerifyFor is how long every message is looked up after a duplicate has arrived. Many duplicates arrive after a crash, or when another
	// instance takes over, and each duplicate that is not looked up halves a commit group. Default 10 s.
	VerifyFor time.Duration
}

// lookupTimeout limits one query of the table.
const lookupTimeout = 15 * time.Second

// New makes an Inbox.
func New(db *sqlx.DB) *Inbox {
	i := &Inbox{db: db, VerifyFor: 10 * time.Second}
	i.lookups.Do, i.lookups.Max, i.lookups.Parallel = i.lookUp, 500, 1
	return i
}

// VerifyDuplicates makes the inbox look up every message for VerifyFor.
func (i *Inbox) VerifyDuplicates() { i.verifyUntil.Store(time.Now().Add(i.VerifyFor).UnixNano()) }

// Optimistic tells whether a message may be processed without a look-up: if it is a duplicate, the insert of its row fails. A compensation is
// always looked up, because it must know whether its action ran.
func (i *Inbox) Optimistic(m cqrs.Meta) bool {
	return m.Branch != cqrs.BranchCompensation && time.Now().UnixNano() > i.verifyUntil.Load()
}

// TryInsert inserts the row of a message without a look-up. The unit of work fails with cqrs.ErrConflict if the row exists.
func TryInsert(ctx context.Context, consumer string, m cqrs.Meta) error {
	if err := check(m); err != nil {
		return err
	}
	return inserted.Write(ctx, newRow(consumer, m))
}

func newRow(consumer string, m cqrs.Meta) *row {
	return &row{consumer, m.ID, m.SagaID, m.SagaStep, m.Branch, cqrs.Processed}
}

// row is a row of the table. A row with a branch excludes other messages of the same saga, step and branch.
type row struct {
	consumer, id string
	saga, step   string
	branch       cqrs.Branch
	outcome      cqrs.Outcome
}

// inserted fails with cqrs.ErrConflict if the row exists already; noted leaves an existing row as it is.
var (
	inserted = &txn.Statement[*row]{Doing: "insert messages into the inbox", Rank: 5, Query: insert(""), Locks: func(r *row) string { return r.consumer + "/" + r.id }}
	noted    = &txn.Statement[*row]{Doing: "record outcomes in the inbox", Rank: 6, Query: insert(" ON CONFLICT DO NOTHING")}
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

// lookUp finds the rows of messages, and the rows of the same saga and step.
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

// check refuses ids that the table cannot store, before they are part of a query or a commit with other messages.
func check(m cqrs.Meta) error {
	return cmp.Or(
		cqrs.CheckText("message id", m.ID, maxID),
		cqrs.CheckText("saga id", m.SagaID, maxID),
		cqrs.CheckText("saga step", m.SagaStep, maxID),
	)
}

// maxID is the length of the longest id that cqrs.InboxID makes of another service's source and id.
const maxID = 2*cqrs.MaxKey + 16

// find returns the rows that are known of a message, read in the transaction of ctx if the unit has its own.
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
	return i.lookups.Call(ctx, lookup{consumer, m})
}

// TryInsert looks a message up and inserts its row in the unit of work of ctx, or returns the reason why the message must not be processed.
// If another instance inserts the same row first, the unit fails with cqrs.ErrConflict, and the next attempt finds the result.
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
		// Inserting the row of the action too keeps a late action from running. If that row is free, the action never ran.
		barrier := &row{consumer, "bar/" + m.ID, m.SagaID, m.SagaStep, cqrs.BranchAction, cqrs.RejectedLate}
		if err := inserted.Write(ctx, barrier); err != nil {
			return "", err
		}
		outcome = cqrs.NothingToCompensate
	}
	return outcome, inserted.Write(ctx, newRow(consumer, m))
}

// outcomeOf tells whether a message must be processed, and whether the action that it compensates has run.
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

// LookUp returns the outcome that TryInsert would return, without inserting a row. A handler with an external call uses it before the call.
func (i *Inbox) LookUp(ctx context.Context, consumer string, m cqrs.Meta) (cqrs.Outcome, error) {
	known, err := i.find(ctx, consumer, m)
	outcome, _ := outcomeOf(known, m)
	if err == nil && outcome != cqrs.Processed {
		i.VerifyDuplicates()
	}
	return outcome, err
}

// Record stores the outcome of a message that has no effect. The row does not exclude other messages of the step.
func Record(ctx context.Context, consumer string, m cqrs.Meta, outcome cqrs.Outcome) error {
	return noted.Write(ctx, &row{consumer, m.ID, m.SagaID, m.SagaStep, "", outcome})
}

// Refuse changes the row that this unit of work inserts to a refusal. The message had no effect, so the row does not exclude another message
// of the same step.
func Refuse(ctx context.Context, consumer, messageID string) error {
	for _, r := range inserted.Written(ctx) {
		if r.consumer == consumer && r.id == messageID {
			r.branch, r.outcome = "", cqrs.Refused
			return nil
		}
	}
	return fmt.Errorf("refuse message %s: it has no inbox row", messageID)
}
