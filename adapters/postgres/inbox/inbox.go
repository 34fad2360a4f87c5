// Package inbox remembers which messages were handled, and keeps the barrier between a saga's commands and their
// compensations. Both live in one table and in the transaction that handles the message. The barrier is the idea of dtm's
// sub-transaction barrier (https://en.dtm.pub/practice/barrier.html).
package inbox

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/adapters/postgres/txn"
	"github.com/millrace/millrace/app"
)

const insert = `INSERT INTO inbox (consumer, message_id, saga_id, saga_step, branch, outcome) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`

// Take claims a message for a consumer in the transaction of ctx. A concurrent claim of the same is waited for.
func Take(ctx context.Context, consumer string, m app.Meta) (app.Outcome, error) {
	tx, err := txn.From(ctx)
	if err != nil {
		return "", err
	}
	if m.Branch == app.Undo {
		return takeUndo(ctx, tx, consumer, m)
	}
	var branch *app.Branch
	if m.Branch == app.Do {
		branch = &m.Branch
	}
	result, err := tx.ExecContext(ctx, insert, consumer, m.ID, null(m.SagaID), null(m.SagaStep), branch, app.Handled)
	if err != nil {
		return "", txn.Classify(err, "claim message "+m.ID)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return app.Handled, err
	}
	return found(ctx, tx, consumer, m)
}

// found says why a claim was not fresh, and records a barred message under its own id.
func found(ctx context.Context, tx *sqlx.Tx, consumer string, m app.Meta) (app.Outcome, error) {
	claim, err := peek(ctx, tx, consumer, m)
	if err != nil || claim == app.Handled {
		return app.Repeated, err
	}
	if claim == app.Barred {
		err = Record(ctx, consumer, m, app.Barred)
	}
	return claim, err
}

func takeUndo(ctx context.Context, tx *sqlx.Tx, consumer string, m app.Meta) (app.Outcome, error) {
	// Taking the place of the action as well bars it; that the place was free tells that it never happened.
	var claimed struct {
		Undo int `db:"undo"`
		Bar  int `db:"bar"`
	}
	err := tx.GetContext(ctx, &claimed, `
		WITH undo AS (
			INSERT INTO inbox (consumer, message_id, saga_id, saga_step, branch, outcome) VALUES ($1, $2, $3, $4, 'undo', 'done')
			ON CONFLICT DO NOTHING RETURNING 1
		), bar AS (
			INSERT INTO inbox (consumer, message_id, saga_id, saga_step, branch, outcome)
			VALUES ($1, 'bar/' || $2, $3, $4, 'do', 'barred') ON CONFLICT DO NOTHING RETURNING 1
		) SELECT (SELECT count(*) FROM undo) AS undo, (SELECT count(*) FROM bar) AS bar`,
		consumer, m.ID, m.SagaID, m.SagaStep)
	switch {
	case err != nil:
		return "", txn.Classify(err, "claim compensation "+m.ID)
	case claimed.Undo == 0:
		return app.Repeated, nil
	case claimed.Bar == 1:
		return app.Nothing, nil
	}
	return app.Handled, nil
}

// Peek tells what Take would say, without claiming. It is for asking a service outside only if there is a point to it.
func Peek(ctx context.Context, db *sqlx.DB, consumer string, m app.Meta) (app.Outcome, error) {
	return peek(ctx, db, consumer, m)
}

func peek(ctx context.Context, q sqlx.QueryerContext, consumer string, m app.Meta) (app.Outcome, error) {
	var outcomes []app.Outcome
	err := sqlx.SelectContext(ctx, q, &outcomes, `
		SELECT CASE WHEN message_id <> $2 AND outcome = 'barred' THEN 'barred' ELSE 'repeated' END FROM inbox
		WHERE consumer = $1 AND (message_id = $2 OR ($3 <> '' AND saga_id = $3 AND saga_step = $4 AND branch = $5))
		ORDER BY message_id <> $2 LIMIT 1`,
		consumer, m.ID, m.SagaID, m.SagaStep, string(m.Branch))
	if err != nil {
		return "", txn.Classify(err, "look up message "+m.ID)
	}
	if len(outcomes) == 0 {
		return app.Handled, nil
	}
	return outcomes[0], nil
}

// Record notes an outcome of a message that has no effect: it does not stand in the way of the step's other messages.
func Record(ctx context.Context, consumer string, m app.Meta, outcome app.Outcome) error {
	tx, err := txn.From(ctx)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, insert, consumer, m.ID, null(m.SagaID), null(m.SagaStep), nil, outcome)
	return txn.Classify(err, "note message "+m.ID)
}

// Refuse changes the claim of this transaction to a refusal. It had no effect, so it is no barrier: the same may be asked again,
// by another message.
func Refuse(ctx context.Context, consumer, messageID string) error {
	tx, err := txn.From(ctx)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE inbox SET outcome = $3, branch = NULL WHERE consumer = $1 AND message_id = $2`, consumer, messageID, app.Declined)
	return txn.Classify(err, "note message "+messageID)
}

func null(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
