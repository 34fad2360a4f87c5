package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// outboxRow is a row that is due.
type outboxRow struct {
	ID         int64  `db:"id"`
	Shard      int16  `db:"shard"`
	Generation int64  `db:"epoch"`
	Blocked    bool   `db:"parked"`    // its key waits behind a dead letter
	Suspended  bool   `db:"suspended"` // its topic cannot be sent to
	Topic      string `db:"topic"`
	Key        string `db:"key"`
	MessageID  string `db:"message_id"`
	Payload    []byte `db:"payload"`
	Headers    []byte `db:"headers"`

	message *message.Message
}

// decode makes the message of a row that was read.
func (row *outboxRow) decode() error {
	row.message = message.NewMessage(row.MessageID, row.Payload)
	if err := json.Unmarshal(row.Headers, &row.message.Metadata); err != nil {
		return fmt.Errorf("headers of outbox row %d: %w", row.ID, err)
	}
	return nil
}

// batch is some rows on their way through a pipeline.
type batch struct {
	rows  []outboxRow
	lease *lease // of their shards
	sent  []int64
}

// pipeline is a worker at work: while one batch is sent, the next one is read, and what was sent before is deleted.
type pipeline struct {
	relay  *Relay
	worker int
	sender Sender
	deep   bool // there was more to read than one batch: the next one is larger

	mu      sync.Mutex
	busy    map[int64]int16 // rows that were read and are not deleted yet, and their shards
	gone    map[int64]bool  // rows that were deleted since the reading at hand began, which may still see them
	err     error
	relayed atomic.Int64
}

// pipeline relays until ctx is done or something fails. Then everything that was read is finished or forgotten before it returns, so that
// what comes next begins with the lowest row again.
func (r *Relay) pipeline(ctx context.Context, w int, sender Sender) (relayed int, err error) {
	p := &pipeline{relay: r, worker: w, sender: sender, busy: map[int64]int16{}, gone: map[int64]bool{}}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	read, sent := make(chan *batch), make(chan *batch, 4)
	var stages sync.WaitGroup
	stages.Go(func() {
		defer close(read)
		p.read(reading, read)
	})
	stages.Go(func() {
		defer close(sent)
		for b := range read {
			if p.failed() == nil {
				p.send(b)
			}
			if p.failed() != nil {
				stop()
			}
			sent <- b
		}
	})
	stages.Go(func() {
		for b := range sent {
			p.remove(b, sent)
			if p.failed() != nil {
				stop()
			}
		}
	})
	stages.Wait()
	return int(p.relayed.Load()), p.failed()
}

func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *pipeline) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

type keyed struct{ topic, key string }

// errReread ends a pipeline because what it has read ahead may have to wait for something that was not known when it was read.
var errReread = errors.New("rows are read again")

// send sends a batch. Whatever is not as it should be ends the pipeline, after it was dealt with.
func (p *pipeline) send(b *batch) {
	r := p.relay
	rows := make([]outboxRow, 0, len(b.rows))
	var behind, aside []outboxRow
	for _, row := range b.rows {
		switch {
		case row.Blocked:
			behind = append(behind, row)
		case row.Suspended:
			aside = append(aside, row)
		default:
			rows = append(rows, row)
		}
	}
	ctx, cancel := context.WithTimeout(b.lease.ctx, finishFor) // a batch is finished even if the relay is stopped
	defer cancel()
	for _, move := range []struct {
		rows []outboxRow
		to   func(context.Context, *lease, []outboxRow) (all bool, err error)
	}{{behind, r.putBehind}, {aside, r.moveToSuspended}} {
		if len(move.rows) == 0 {
			continue
		}
		all, err := move.to(ctx, b.lease, move.rows)
		if err == nil && !all {
			err = errReread // a dead letter was replayed, or a topic is no longer suspended: the rows come before those that were read later
		}
		if err != nil {
			p.fail(err)
			return
		}
	}
	sent, faults, err := r.transmit(b.lease, p.sender, rows)
	b.sent = sent
	if len(faults) > 0 {
		if suspendErr := r.suspend(ctx, b.lease, faults, without(rows, sent)); suspendErr != nil {
			err = suspendErr
		} else if err == nil {
			err = errReread
		}
	}
	if err != nil {
		p.fail(err)
	}
}

// finishFor bounds what is done about a batch that was sent.
const finishFor = 30 * time.Second

// transmit sends rows and returns the ids of those that the broker has, and which topics cannot be sent to. A message that the broker refuses
// becomes a dead letter, and the error is errReread, unless something else has failed.
func (r *Relay) transmit(held *lease, sender Sender, rows []outboxRow) (sent []int64, faults map[string]error, err error) {
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
	refused := map[keyed][]outboxRow{} // from the first one on that was not taken
	var order []keyed
	faults = map[string]error{} // by topic
	for i, sendErr := range sender.Send(held.ctx, topics, messages) {
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
	ctx, cancel := context.WithTimeout(held.ctx, finishFor)
	defer cancel()
	for _, k := range order {
		more, aloneErr := r.alone(ctx, held, sender, refused[k])
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

// alone sends the messages of a key one by one. One that was refused may only have shared a request with the guilty one; if it is refused
// again, it becomes a dead letter and its key is parked behind it.
func (r *Relay) alone(ctx context.Context, held *lease, sender Sender, rows []outboxRow) (sent []int64, err error) {
	for _, row := range rows {
		err := sender.Send(held.ctx, []string{row.Topic}, []*message.Message{row.message})[0]
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

// remove deletes what was sent, of this batch and of those that wait behind it.
func (p *pipeline) remove(b *batch, more <-chan *batch) {
	r := p.relay
	all := []*batch{b}
	for waiting := true; waiting; {
		select {
		case next, ok := <-more:
			if waiting = ok; ok {
				all = append(all, next)
			}
		default:
			waiting = false
		}
	}
	for _, b := range all {
		n, err := r.removeSent(b.lease, b.sent)
		p.relayed.Add(int64(n))
		if err != nil {
			p.fail(err)
			continue
		}
		r.floors.relayed(b.rows, b.sent)
	}
	p.mu.Lock()
	for _, b := range all {
		for _, row := range b.rows {
			delete(p.busy, row.ID)
			p.gone[row.ID] = true
		}
	}
	p.mu.Unlock()
	for _, b := range all {
		b.lease.done()
	}
}

// removeSent deletes rows whose messages the broker has. The error is ErrLeaseLost if the lease was lost meanwhile: then another relay may
// send them once more, and their inbox recognises them.
func (r *Relay) removeSent(held *lease, ids []int64) (deleted int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), finishFor)
	defer cancel()
	// The commit does not wait for the disk: a row that a crash of the database brings back is sent once more.
	b := &pgx.Batch{}
	b.Queue(`SELECT set_config('synchronous_commit', 'off', true)`)
	b.Queue(`WITH deleted AS (DELETE FROM outbox o USING relay_leases l WHERE o.id = ANY($1) AND l.shard = o.shard AND l.owner = $2 RETURNING 1)
		SELECT count(*) FROM deleted`, ids, held.owner).QueryRow(func(row pgx.Row) error { return row.Scan(&deleted) })
	if err := txn.Send(ctx, r.db, nil, b); err != nil {
		return 0, txn.Classify(err, "delete relayed messages")
	}
	r.options.OnRelayed(deleted)
	if deleted < len(ids) {
		held.lost()
		return deleted, ErrLeaseLost
	}
	return deleted, nil
}

// putBehind has rows wait behind the dead letter of their key. It locks the dead letters, as replay and drop do, so a row waits only for one
// that is there; all is false if it is gone for some of the rows.
func (r *Relay) putBehind(ctx context.Context, held *lease, rows []outboxRow) (all bool, err error) {
	return move(ctx, r.db, held, rows, `
		WITH letters AS MATERIALIZED (
			SELECT d.topic, d.key FROM dead_letters d WHERE d.outbox_id IS NOT NULL
				AND (d.topic, d.key) IN (SELECT topic, key FROM outbox WHERE id = ANY($1)) FOR SHARE)
		UPDATE outbox o SET due_at = 'infinity', consumer = NULL, line = NULL
		FROM (SELECT DISTINCT topic, key FROM letters) d, relay_leases l
		WHERE o.id = ANY($1) AND o.due_at IS NULL AND o.topic = d.topic AND o.key = d.key AND l.shard = o.shard AND l.owner = $2`)
}

// move changes rows by a statement that gets their ids and the lease's owner, and tells whether it has changed all of them.
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

// park makes a row a dead letter and holds back the rows behind it in its key. Those before it were sent: to change them too would get into a
// deadlock with the statement that deletes them.
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
	r.log.Error("relay: the broker refuses a message; its key is parked", "topic", row.Topic, "key", row.Key, "message", row.message.UUID, "error", reason)
	r.options.OnBlocked(row.Topic, row.Key, reason)
	return nil
}
