package outbox

import (
	"cmp"
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

// batch is rows that are read, sent and deleted together.
type batch struct {
	rows  []outboxRow
	lease *lease // of their shards
	sent  []int64

	handled []outboxRow // whose messages were handled by this process
}

// pipeline is a running worker: while it sends one batch, it reads the next one and deletes the sent rows of the one before.
type pipeline struct {
	relay  *Relay
	worker int
	sender Sender
	deep   bool // there is a backlog: the next batch is larger

	generation int // of what the sender remembers

	mu      sync.Mutex
	busy    map[int64]int16 // rows that were read and are not deleted yet, and their shards
	gone    map[int64]bool  // rows that were deleted since the current read began, which may still see them
	err     error
	relayed atomic.Int64
}

// pipeline relays until ctx is done or a step fails. Before it returns, all rows that it has read are finished or forgotten, so that the next
// pipeline starts with the lowest row.
func (r *Relay) pipeline(ctx context.Context, w int, sender Sender) (relayed int, err error) {
	p := &pipeline{relay: r, worker: w, sender: sender, generation: -1, busy: map[int64]int16{}, gone: map[int64]bool{}}
	r.handed.begin(p.mine)
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

// mine tells whether the worker relays a shard.
func (p *pipeline) mine(shard int16) bool { return int(shard)%p.relay.options.Workers == p.worker }

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

// errReread ends a pipeline whose rows were read before a message was refused, a dead letter replayed or a topic resumed: some of them may
// have to wait.
var errReread = errors.New("rows are read again")

// send sends a batch. A refused message, a suspended topic or an error is handled first, and then ends the pipeline.
func (p *pipeline) send(b *batch) {
	r := p.relay
	rows := make([]outboxRow, 0, len(b.rows))
	var behind, aside []outboxRow
	var waiting error
	wait := map[keyed]bool{}
	for _, row := range b.rows {
		k := keyed{row.Topic, row.Key}
		switch {
		case wait[k] || (row.Blocked || row.Suspended) && r.handed.busy(k):
			wait[k], waiting = true, errReread // it is put aside when the messages before it are done
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
	rest, refused := p.handOver(b.lease, rows)
	sent, faults, err := r.transmit(b.lease, p.sender, rest)
	err = cmp.Or(err, refused, waiting)
	b.sent = sent
	if len(faults) > 0 {
		if suspendErr := r.suspend(ctx, b.lease, faults, without(rest, sent)); suspendErr != nil {
			err = suspendErr
		} else if err == nil {
			err = errReread
		}
	}
	if err != nil {
		p.fail(err)
	}
}

// finishFor limits the statements after a batch was sent.
const finishFor = 30 * time.Second

// transmit sends rows. It returns the ids of the rows that the broker has acknowledged, and the topics to which sending fails. A message that
// the broker refuses becomes a dead letter; the error is then errReread, unless there is another one.
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
	refused := map[keyed][]outboxRow{} // from the first message on that was not acknowledged
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

// alone sends the messages of a key one by one. A refused message may only have shared a request with the message that is too large. If it is
// refused again, it becomes a dead letter and blocks its key.
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

// remove deletes the sent rows of this batch and of the batches that wait behind it.
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
		n, err := r.removeSent(b.lease, b.sent, idsOf(b.handled))
		p.relayed.Add(int64(n))
		if err != nil {
			p.fail(err)
			continue
		}
		r.lowWaterMarks.relayed(append(b.rows, b.handled...), append(b.sent, idsOf(b.handled)...))
	}
	p.mu.Lock()
	for _, b := range all {
		for _, row := range append(b.rows, b.handled...) {
			delete(p.busy, row.ID)
			p.gone[row.ID] = true
		}
	}
	p.mu.Unlock()
	for _, b := range all {
		r.handed.forget(b.handled)
		b.lease.done()
	}
}

// removeSent deletes rows whose messages the broker has acknowledged, or handlers of this process have handled. The error is ErrLeaseLost if a sent
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
