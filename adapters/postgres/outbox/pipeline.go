package outbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/adapters/postgres/txn"
)

// outboxRow is a row that is due.
type outboxRow struct {
	ID        int64  `db:"id"`
	Shard     int16  `db:"shard"`
	Epoch     int64  `db:"epoch"`
	Parked    bool   `db:"parked"`
	Topic     string `db:"topic"`
	Key       string `db:"key"`
	MessageID string `db:"message_id"`
	Payload   []byte `db:"payload"`
	Headers   []byte `db:"headers"`

	message *message.Message
}

// batch is some rows on their way through a pipeline.
type batch struct {
	rows    []outboxRow
	release func() // the shards, which are not let go before
	sent    []int64
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

// send sends a batch. Whatever is not as it should be ends the pipeline, after it was dealt with.
func (p *pipeline) send(b *batch) {
	r := p.relay
	n := len(b.rows)
	topics, messages, rows := make([]string, 0, n), make([]*message.Message, 0, n), make([]outboxRow, 0, n)
	var behind []int64 // rows of keys that were parked earlier
	for _, row := range b.rows {
		if row.Parked {
			behind = append(behind, row.ID)
			continue
		}
		rows = append(rows, row)
		topics, messages = append(topics, row.Topic), append(messages, row.message)
	}
	refused := map[keyed][]outboxRow{} // from the first one on that was not taken
	var order []keyed
	transient := error(nil)
	for i, err := range p.sender.Send(topics, messages) {
		switch {
		case err == nil:
			b.sent = append(b.sent, rows[i].ID)
		case r.options.Refused(err):
			k := keyed{rows[i].Topic, rows[i].Key}
			if refused[k] == nil {
				order = append(order, k)
			}
			refused[k] = append(refused[k], rows[i])
		default:
			transient = fmt.Errorf("publish to %s: %w", rows[i].Topic, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // what is in hand is finished even if we are told to stop
	defer cancel()
	if len(behind) > 0 {
		_, err := r.db.ExecContext(ctx, `UPDATE outbox SET due_at = 'infinity', consumer = NULL, line = NULL WHERE id = ANY($1)`, behind)
		if err != nil {
			p.fail(txn.Classify(err, "park messages"))
		}
	}
	for _, k := range order {
		if err := p.alone(ctx, b, refused[k]); err != nil {
			transient = err
		}
	}
	switch {
	case transient != nil:
		p.fail(transient)
	case len(order) > 0:
		p.fail(errParked)
	}
}

// errParked ends a pipeline because what it has read ahead may be behind a message that was refused.
var errParked = errors.New("the broker has refused messages")

// alone sends the messages of a key one by one. One that was refused may only have shared a request with the guilty one; if it is refused
// again, it becomes a dead letter and its key is parked behind it.
func (p *pipeline) alone(ctx context.Context, b *batch, rows []outboxRow) error {
	for _, row := range rows {
		err := p.sender.Send([]string{row.Topic}, []*message.Message{row.message})[0]
		switch {
		case err == nil:
			b.sent = append(b.sent, row.ID)
		case p.relay.options.Refused(err):
			return p.relay.park(ctx, row, err)
		default:
			return err
		}
	}
	return nil
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
	var ids []int64
	for _, b := range all {
		ids = append(ids, b.sent...)
	}
	if len(ids) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		// Not waited for until it is on the disk: what a crash of the database brings back is sent once more.
		b := &pgx.Batch{}
		b.Queue(`SELECT set_config('synchronous_commit', 'off', true)`)
		b.Queue(`DELETE FROM outbox WHERE id = ANY($1)`, ids)
		if err := txn.Send(ctx, r.db, nil, b); err != nil {
			p.fail(txn.Classify(err, "delete relayed messages"))
		} else {
			p.relayed.Add(int64(len(ids)))
			r.options.OnRelayed(len(ids))
			for _, b := range all {
				r.floors.relayed(b.rows, b.sent)
			}
		}
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
		b.release()
	}
}

// park makes a row a dead letter and holds back what is behind it in its key.
func (r *Relay) park(ctx context.Context, row outboxRow, reason error) error {
	r.log.Error("relay: the broker refuses a message; its key is parked", "topic", row.Topic, "key", row.Key, "message", row.message.UUID, "error", reason)
	_, err := r.db.ExecContext(ctx, `
		WITH dead AS (DELETE FROM outbox WHERE id = $1 RETURNING *), held AS (
			UPDATE outbox SET due_at = 'infinity', consumer = NULL, line = NULL WHERE topic = $2 AND key = $3 AND shard = $4 AND due_at IS NULL AND id <> $1)
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, outbox_id, first_at, last_at)
		SELECT message_id || '@relay', 'relay', message_id, topic, key, headers, payload, $5, 2, id, created_at, now() FROM dead
		ON CONFLICT (id) DO UPDATE SET last_at = now(), attempts = dead_letters.attempts + 2, reason = excluded.reason, outbox_id = excluded.outbox_id,
			dropped_at = NULL, dropped_by = NULL, drop_reason = NULL`,
		row.ID, row.Topic, row.Key, ShardOf(row.Topic, row.Key), reason.Error())
	if err == nil {
		r.options.OnParked(row.Topic, row.Key, reason)
	}
	return txn.Classify(err, "park "+row.Topic+" "+row.Key)
}
