// Topics that cannot be sent to (ADR 24). Their messages wait in the order of their rows, and no other topic waits for them. TestSuspendedTopicDoesNotStopOthers,
// TestSuspendedLocalTopicForgetsNothingWhileTheBrokerIsAway and TestSuspendedTopicsKeepKeyOrder show it.

package outbox

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// A topic to which sending fails is a row of suspended_topics. Its messages get due_at = '-infinity', which takes them out of the index that
// the lanes read by. A goroutine retries the topic with growing delays and sends these messages; new messages are suspended behind them
// meanwhile. The suspension ends when the topic has no suspended message.

// SuspendedTopic is a topic to which sending fails.
type SuspendedTopic struct {
	Topic    string    `db:"topic"`
	Reason   string    `db:"reason"`
	Since    time.Time `db:"since"`
	NextTry  time.Time `db:"next_try"`
	Attempts int       `db:"attempts"`
}

// SuspendedTopics returns the suspended topics by name.
func SuspendedTopics(ctx context.Context, db *sqlx.DB) (list []SuspendedTopic, err error) {
	err = db.SelectContext(ctx, &list, `SELECT topic, reason, since, next_try, attempts FROM suspended_topics ORDER BY topic`)
	return list, txn.Classify(err, "read suspended topics")
}

// Delays between the attempts of a suspended topic.
const (
	firstRetry = 250 * time.Millisecond
	maxRetry   = 30 * time.Second
)

// retryDelay is the delay after so many failed attempts, plus or minus a fifth.
func retryDelay(attempts int) time.Duration {
	d := min(firstRetry<<min(attempts-1, 10), maxRetry)
	return d*4/5 + rand.N(d*2/5) //nolint:gosec // it only spreads attempts
}

// suspend suspends topics, and those of some rows that belong to them.
func (r *Relay) suspend(ctx context.Context, held *lease, faults map[string]error, rows []outboxRow) error {
	tx, err := r.db.BeginTxx(ctx, nil)
	if err != nil {
		return txn.Classify(err, "suspend topics")
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	for _, topic := range slices.Sorted(maps.Keys(faults)) {
		var first bool
		err := tx.GetContext(ctx, &first, `
			INSERT INTO suspended_topics (topic, reason, next_try) SELECT $1, $2, app_now() + $3::interval
			WHERE EXISTS (SELECT FROM relay_leases WHERE owner = $4)
			ON CONFLICT (topic) DO UPDATE SET reason = excluded.reason RETURNING xmax = 0`, topic, faults[topic].Error(), retryDelay(1), held.owner)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrLeaseLost
		}
		if err != nil {
			return txn.Classify(err, "suspend topic "+topic)
		}
		if first {
			r.log.Error("relay: topic suspended, sending fails", "topic", topic, "error", faults[topic])
		}
	}
	suspended := rows[:0:0]
	for _, row := range rows {
		if faults[row.Topic] != nil {
			suspended = append(suspended, row)
		}
	}
	if _, err := move(ctx, tx, held, suspended, suspendStatement); err != nil {
		return err
	}
	defer wake(r.retry)
	return txn.Classify(tx.Commit(), "suspend topics")
}

// suspendStatement suspends rows while their topics are suspended. It locks the topics, as resume does.
const suspendStatement = `
	WITH suspended AS MATERIALIZED (
		SELECT topic FROM suspended_topics WHERE topic IN (SELECT topic FROM outbox WHERE id = ANY($1)) FOR SHARE)
	UPDATE outbox o SET due_at = '-infinity' FROM suspended s, relay_leases l
	WHERE o.id = ANY($1) AND o.due_at IS NULL AND o.topic = s.topic AND l.shard = o.shard AND l.owner = $2`

func (r *Relay) moveToSuspended(ctx context.Context, held *lease, rows []outboxRow) (all bool, err error) {
	return move(ctx, r.db, held, rows, suspendStatement)
}

// retrySuspended retries suspended topics until ctx is done, each in a goroutine of its own.
func (r *Relay) retrySuspended(ctx context.Context) {
	var trying sync.Map
	var retries sync.WaitGroup
	defer retries.Wait()
	for ctx.Err() == nil {
		var topics []struct {
			Topic    string  `db:"topic"`
			Attempts int     `db:"attempts"`
			Wait     float64 `db:"wait"`
		}
		wait := r.options.Poll
		err := r.db.SelectContext(ctx, &topics, `SELECT topic, attempts, EXTRACT(epoch FROM next_try - app_now())::float8 AS wait FROM suspended_topics`)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("relay: cannot read suspended topics", "error", err)
		}
		for _, t := range topics {
			if t.Wait > 0 {
				wait = min(wait, max(time.Duration(t.Wait*float64(time.Second)), 10*time.Millisecond))
				continue
			}
			if _, running := trying.LoadOrStore(t.Topic, true); running {
				continue
			}
			retries.Go(func() {
				defer wake(r.retry)
				defer trying.Delete(t.Topic)
				r.try(ctx, t.Topic, t.Attempts)
			})
		}
		sleep(ctx, r.retry, wait)
	}
}

// try sends the suspended messages of a topic in the shards that this relay holds, and ends the suspension when no suspended message of the
// topic is left.
func (r *Relay) try(ctx context.Context, topic string, attempts int) {
	if r.down() && slices.Contains(r.options.Local, topic) && r.ping(ctx) != nil {
		r.postpone(ctx, topic, attempts, nil) // a failed send would make the local lane forget which messages were sent, and it could not find out now
		return
	}
	repairErr := r.options.Repair(ctx, topic)
	sender := r.sender()
	if c, ok := sender.(interface{ Close() }); ok {
		defer c.Close()
	}
	reached := false
	for ctx.Err() == nil {
		sent, found, fault, err := r.sendSuspended(ctx, sender, topic)
		switch {
		case fault != nil:
			r.postpone(ctx, topic, attempts, errors.Join(fault, repairErr))
			return
		case err != nil && !errors.Is(err, errReread): // no fault of the topic
			r.log.Warn("relay: sending to a suspended topic failed", "topic", topic, "error", err)
			r.postpone(ctx, topic, attempts, nil)
			return
		case found:
			if sent > 0 && !reached {
				reached = true
				r.noteRecovery(ctx, topic)
			}
			continue
		}
		if resumed, err := r.resume(ctx, topic); err != nil || !resumed { // other relays have some
			r.postpone(ctx, topic, attempts, nil)
		}
		return
	}
}

// sendSuspended sends some messages of a suspended topic, if there are any. Fault is the topic's error if sending has failed again.
func (r *Relay) sendSuspended(ctx context.Context, sender Sender, topic string) (sent int, found bool, fault, err error) {
	held := r.leases.use()
	if held == nil {
		return 0, false, nil, nil
	}
	defer held.done()
	ctx, cancel := context.WithTimeout(ctx, finishFor)
	defer cancel()
	var rows []outboxRow
	err = r.db.SelectContext(ctx, &rows, `SELECT `+columns+` FROM outbox WHERE topic = $1 AND due_at = '-infinity' AND shard = ANY($2) ORDER BY id LIMIT $3`,
		topic, held.shards, r.options.Batch)
	if err != nil || len(rows) == 0 {
		return 0, false, nil, txn.Classify(err, "read messages of a suspended topic")
	}
	for i := range rows {
		if err := rows[i].decode(); err != nil {
			return 0, true, nil, err
		}
	}
	ids, faults, err := r.transmit(held.ctx, held, sender, rows)
	if slices.Contains(r.options.Local, topic) && (len(ids) > 0 || err != nil) {
		r.handed.forgetSent() // the local lane does not know what was sent here
	}
	sent, removeErr := r.removeSent(held, ids, nil)
	return sent, true, faults[topic], errors.Join(removeErr, err)
}

// noteRecovery records that the broker accepts messages of a suspended topic again.
func (r *Relay) noteRecovery(ctx context.Context, topic string) {
	_, err := r.db.ExecContext(ctx, `UPDATE suspended_topics SET reason = 'the broker accepts messages again; the suspended ones are being sent' WHERE topic = $1`, topic)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("relay: cannot record that a topic accepts messages again", "topic", topic, "error", err)
	}
}

// postpone schedules the next attempt of a suspended topic, with a growing delay if it has failed again.
func (r *Relay) postpone(ctx context.Context, topic string, attempts int, fault error) {
	var err error
	if fault != nil {
		_, err = r.db.ExecContext(ctx, `UPDATE suspended_topics SET reason = $3, attempts = attempts + 1, next_try = app_now() + $4::interval
			WHERE topic = $1 AND attempts = $2`, topic, attempts, fault.Error(), retryDelay(attempts+1))
	} else {
		_, err = r.db.ExecContext(ctx, `UPDATE suspended_topics SET next_try = app_now() + $2::interval WHERE topic = $1 AND next_try <= app_now()`, topic, r.options.Poll)
	}
	if err != nil && ctx.Err() == nil {
		r.log.Warn("relay: cannot postpone a suspended topic", "topic", topic, "error", err)
		pause(ctx, r.options.Poll)
	}
}

// resume ends the suspension of a topic without suspended messages. It locks the topic first, as suspendStatement does, and counts in a
// second statement, so that it sees all rows that were suspended before.
func (r *Relay) resume(ctx context.Context, topic string) (resumed bool, err error) {
	tx, err := r.db.BeginTxx(ctx, nil)
	if err != nil {
		return false, txn.Classify(err, "end the suspension of "+topic)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, `SELECT FROM suspended_topics WHERE topic = $1 FOR UPDATE`, topic); err != nil {
		return false, txn.Classify(err, "end the suspension of "+topic)
	}
	// With a new generation, commits fail whose claims do not know which messages of their keys were sent here.
	result, err := tx.ExecContext(ctx, `WITH resumed AS (DELETE FROM suspended_topics WHERE topic = $1 AND NOT EXISTS (SELECT FROM outbox WHERE topic = $1 AND due_at = '-infinity') RETURNING topic)
		UPDATE outbox_epoch SET epoch = epoch + 1 FROM resumed`, topic)
	if err != nil {
		return false, txn.Classify(err, "end the suspension of "+topic)
	}
	n, err := result.RowsAffected()
	if err = errors.Join(err, tx.Commit()); err != nil {
		return false, txn.Classify(err, "end the suspension of "+topic)
	}
	if n > 0 {
		r.log.Info("relay: topic resumed", "topic", topic)
		r.Wake()
	}
	return n > 0, nil
}
