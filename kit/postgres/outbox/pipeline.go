// A lane of the relay reads, sends and deletes at the same time. The messages of a key are sent in the order of their rows: after any failure the rows are read again from the
// lowest one on. TestEveryKeyArrivesInOrder and TestOrderSurvivesFailures show it.

package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
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

// pipeline is a running lane: while it sends one batch, it reads the next one and deletes the sent rows of the one before.
type pipeline struct {
	*lane
	relay  *Relay
	sender Sender

	mu      sync.Mutex
	busy    map[int64]int16 // shards of the rows that were read and are not deleted yet
	left    map[int16]int   // number of rows of claimed keys that the last read has found, by shard
	gone    map[int64]bool  // rows that were deleted since the current read began: it may still see them
	err     error
	relayed atomic.Int64
}

// pipeline relays until ctx is done or a step fails. Before it returns, all rows that it has read are finished or forgotten, so that the next
// pipeline starts with the lowest row.
func (r *Relay) pipeline(ctx context.Context, l *lane, sender Sender) (relayed int, err error) {
	p := &pipeline{lane: l, relay: r, sender: sender, busy: map[int64]int16{}, gone: map[int64]bool{}}
	if l.local {
		r.handed.begin()
	}
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
	for range 2 { // of a backlog, deleting takes longest
		stages.Go(func() {
			for b := range sent {
				p.remove(b, sent)
				if p.failed() != nil {
					stop()
				}
			}
		})
	}
	stages.Wait()
	return int(p.relayed.Load()), p.failed()
}

// leftOut is the number of rows of claimed keys that the last read has found.
func (p *pipeline) leftOut() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range p.left {
		n += of
	}
	return n
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

// errReread ends a pipeline whose rows were read before a message was refused, a dead letter replayed or a topic resumed: some of the rows may
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
			wait[k], waiting = true, errReread // the row is moved after the messages before it are done
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
			err = errReread // a dead letter was replayed, or a topic resumed: the rows come before rows that were read later
		}
		if err != nil {
			p.fail(err)
			return
		}
	}
	rest, refused := p.handOver(b.lease, rows)
	sending, stop := b.lease.ctx, func() {}
	if p.local {
		sending, stop = context.WithTimeout(sending, localSend)
	}
	sent, faults, err := r.transmit(sending, b.lease, p.sender, rest)
	stop()
	if p.local {
		r.handed.sent(rest)
	}
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
		r.buffer.forget(b.rows) // a row may have been read before its message was offered
		p.relayed.Add(int64(n))
		if err != nil {
			p.fail(err)
			continue
		}
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
