// Sending and deleting rows. Only the holder of the shard's lease sends, and a row is deleted only after the broker has acknowledged its message. A message that the broker refuses
// blocks only its own key. TestLostLeaseFencesSends, TestRefusedRecordBlocksItsKeyOnly and TestEveryKeyArrivesInOrder show it.

package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// finishFor limits the statements after a batch was sent.
const finishFor = 30 * time.Second

// transmit sends rows, until sending is done at the latest. It returns the ids of the rows that the broker has acknowledged, and the topics to which sending fails. A message that
// the broker refuses becomes a dead letter; the error is then errReread, unless there is another one.
func (r *Relay) transmit(sending context.Context, held *lease, sender Sender, rows []outboxRow) (sent []int64, faults map[string]error, err error) {
	if len(rows) == 0 {
		return nil, nil, nil
	}
	if !held.valid() {
		return nil, nil, ErrLeaseLost
	}
	topics, messages := make([]string, len(rows)), make([]*message.Message, len(rows))
	for i, row := range rows {
		topics[i], messages[i] = row.Topic, row.message
	}
	refused := map[keyed][]outboxRow{} // by key: its rows from the first refused message on
	var order []keyed
	faults = map[string]error{} // by topic
	ended := r.sends.begin()
	errs := sender.Send(sending, topics, messages)
	ended()
	for i, sendErr := range errs {
		switch {
		case sendErr == nil:
			sent = append(sent, rows[i].ID)
		case r.options.Refused(sendErr):
			k := keyed{rows[i].Topic, rows[i].Key}
			if refused[k] == nil {
				order = append(order, k)
			}
			refused[k] = append(refused[k], rows[i])
		case r.options.TopicFault(sendErr):
			faults[rows[i].Topic] = sendErr
		default:
			err = fmt.Errorf("publish to %s: %w", rows[i].Topic, sendErr)
		}
	}
	r.reached(len(sent) > 0, err)
	ctx, cancel := context.WithTimeout(held.ctx, finishFor)
	defer cancel()
	for _, k := range order {
		more, aloneErr := r.alone(ctx, sending, held, sender, refused[k])
		sent = append(sent, more...)
		switch {
		case aloneErr == nil:
		case r.options.TopicFault(aloneErr):
			faults[k.topic] = aloneErr
		default:
			err = aloneErr
		}
	}
	if err == nil && len(order) > 0 {
		err = errReread
	}
	return sent, faults, err
}

func without(rows []outboxRow, sent []int64) (rest []outboxRow) {
	done := make(map[int64]bool, len(sent))
	for _, id := range sent {
		done[id] = true
	}
	for _, row := range rows {
		if !done[row.ID] {
			rest = append(rest, row)
		}
	}
	return rest
}

// alone sends the messages of a key one by one. A message may have been refused because it shared a request with one that is too large. If it is
// refused again, it becomes a dead letter and blocks its key.
func (r *Relay) alone(ctx, sending context.Context, held *lease, sender Sender, rows []outboxRow) (sent []int64, err error) {
	for _, row := range rows {
		ended := r.sends.begin()
		err := sender.Send(sending, []string{row.Topic}, []*message.Message{row.message})[0]
		ended()
		switch {
		case err == nil:
			sent = append(sent, row.ID)
		case r.options.Refused(err):
			return sent, r.block(ctx, held, row, err)
		default:
			return sent, err
		}
	}
	return sent, nil
}

// removeSent deletes rows whose messages the broker has acknowledged or handlers of this process have handled. The error is ErrLeaseLost if a sent
// row is missing, because the lease was lost meanwhile: another relay may then send the messages again, and the inbox of their consumers
// rejects the duplicates. A handled row may be missing: its handler was active for longer than a lease lasts.
func (r *Relay) removeSent(held *lease, sent, handled []int64) (deleted int, err error) {
	if len(sent)+len(handled) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), finishFor)
	defer cancel()
	var ofSent int
	// The commit does not wait for the disk: a row that a crash of the database brings back is sent once more.
	b := &pgx.Batch{}
	b.Queue(`SELECT set_config('synchronous_commit', 'off', true)`)
	b.Queue(`WITH deleted AS (DELETE FROM outbox o USING relay_leases l WHERE o.id = ANY($1::bigint[] || $2::bigint[]) AND l.shard = o.shard AND l.owner = $3 RETURNING o.id)
		SELECT count(*), count(*) FILTER (WHERE id = ANY($1)) FROM deleted`, sent, handled, held.owner).
		QueryRow(func(row pgx.Row) error { return row.Scan(&deleted, &ofSent) })
	if err := txn.Send(ctx, r.db, nil, b); err != nil {
		return 0, txn.Classify(err, "delete relayed messages")
	}
	r.options.OnRelayed(deleted)
	if ofSent < len(sent) {
		held.lost()
		return deleted, ErrLeaseLost
	}
	return deleted, nil
}

// putBehind makes rows wait behind the dead letter of their key. It locks the dead letters, as replay and drop do, so that no row waits for a
// dead letter that is gone. All is false if it is gone for some of the rows.
func (r *Relay) putBehind(ctx context.Context, held *lease, rows []outboxRow) (all bool, err error) {
	return move(ctx, r.db, held, rows, `
		WITH letters AS MATERIALIZED (
			SELECT d.topic, d.key FROM dead_letters d WHERE d.outbox_id IS NOT NULL
				AND (d.topic, d.key) IN (SELECT topic, key FROM outbox WHERE id = ANY($1)) FOR SHARE)
		UPDATE outbox o SET due_at = 'infinity', consumer = NULL, line = NULL
		FROM (SELECT DISTINCT topic, key FROM letters) d, relay_leases l
		WHERE o.id = ANY($1) AND o.due_at IS NULL AND o.topic = d.topic AND o.key = d.key AND l.shard = o.shard AND l.owner = $2`)
}

// move updates rows with a statement that gets their ids and the lease's owner, and tells whether all rows were updated.
func move(ctx context.Context, db sqlx.ExecerContext, held *lease, rows []outboxRow, statement string) (all bool, err error) {
	ids := make([]int64, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	result, err := db.ExecContext(ctx, statement, ids, held.owner)
	if err != nil {
		return false, txn.Classify(err, "put messages aside")
	}
	n, err := result.RowsAffected()
	return int(n) == len(rows), err
}

// block makes a row a dead letter and blocks the rows behind it in its key. The rows before it were sent: updating them too would deadlock
// with the statement that deletes them.
func (r *Relay) block(ctx context.Context, held *lease, row outboxRow, reason error) error {
	result, err := r.db.ExecContext(ctx, `
		WITH dead AS (
			DELETE FROM outbox o USING relay_leases l WHERE o.id = $1 AND l.shard = o.shard AND l.owner = $6 RETURNING o.*
		), behind AS (
			UPDATE outbox SET due_at = 'infinity', consumer = NULL, line = NULL FROM dead
			WHERE outbox.topic = $2 AND outbox.key = $3 AND outbox.shard = $4 AND (outbox.due_at IS NULL OR outbox.due_at = '-infinity') AND outbox.id > $1)
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, outbox_id, first_at, last_at)
		SELECT message_id || '@relay', 'relay', message_id, topic, key, headers, payload, $5, 2, id, created_at, app_now() FROM dead
		ON CONFLICT (id) DO UPDATE SET last_at = app_now(), attempts = dead_letters.attempts + 2, outbox_id = excluded.outbox_id,
			reason = excluded.reason, headers = excluded.headers, payload = excluded.payload, dropped_at = NULL, dropped_by = NULL, drop_reason = NULL`,
		row.ID, row.Topic, row.Key, ShardOf(row.Topic, row.Key), reason.Error(), held.owner)
	if err != nil {
		return txn.Classify(err, "park "+row.Topic+" "+row.Key)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrLeaseLost)
	}
	r.log.Error("relay: message refused by the broker, key blocked", "topic", row.Topic, "key", row.Key, "message", row.message.UUID, "error", reason)
	r.options.OnBlocked(row.Topic, row.Key, reason)
	return nil
}
