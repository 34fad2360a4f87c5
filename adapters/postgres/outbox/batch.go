package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/adapters/postgres/txn"
)

// batch is what becomes of some rows. Each key is a line of its own: its first failure stops it.
type batch struct {
	relay *Relay
	rows  []outboxRow

	mu        sync.Mutex
	relayed   []int64
	behind    []int64     // rows of keys that were parked earlier
	refused   []outboxRow // the head of each key that was refused
	transient error
}

type keyed struct{ topic, key string }

func (b *batch) publish(rows []outboxRow) {
	lines := map[keyed][]outboxRow{}
	for _, row := range rows {
		if row.Parked {
			b.behind = append(b.behind, row.ID)
			continue
		}
		k := keyed{row.Topic, row.Key}
		lines[k] = append(lines[k], row)
	}
	var wg sync.WaitGroup
	for _, line := range lines {
		wg.Go(func() {
			for i, row := range line {
				err := b.send(row)
				if err == nil {
					continue
				}
				b.failed(row, err)
				line = line[:i]
				break
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, row := range line {
				b.relayed = append(b.relayed, row.ID)
			}
		})
	}
	wg.Wait()
}

func (b *batch) send(row outboxRow) error {
	msg := message.NewMessage(row.MessageID, row.Payload)
	if err := json.Unmarshal(row.Headers, &msg.Metadata); err != nil {
		return fmt.Errorf("headers of outbox row %d: %w", row.ID, err)
	}
	return b.relay.publisher.Publish(row.Topic, msg)
}

func (b *batch) failed(row outboxRow, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.relay.options.Refused(err) {
		b.refused = append(b.refused, row)
	} else {
		b.transient = fmt.Errorf("publish to %s: %w", row.Topic, err)
	}
}

// settle deletes what was relayed. A refused message may only have shared a request with the guilty one, so each is sent
// once more, alone; if it is refused again, it becomes a dead letter and its key is parked behind it.
func (b *batch) settle(ctx context.Context) error {
	guilty := map[int64]error{}
	for _, row := range b.refused {
		switch err := b.send(row); {
		case err == nil:
			b.relayed = append(b.relayed, row.ID)
		case b.relay.options.Refused(err):
			guilty[row.ID] = err
		default:
			b.transient = err
		}
	}
	if len(b.relayed) > 0 {
		if _, err := b.relay.db.ExecContext(ctx, `DELETE FROM outbox WHERE id = ANY($1)`, b.relayed); err != nil {
			return txn.Classify(err, "delete relayed messages")
		}
		b.relay.floors.relayed(b.rows, b.relayed)
		b.relay.options.OnRelayed(len(b.relayed))
	}
	if len(b.behind) > 0 {
		if _, err := b.relay.db.ExecContext(ctx, `UPDATE outbox SET due_at = 'infinity', consumer = NULL, line = NULL WHERE id = ANY($1)`, b.behind); err != nil {
			return txn.Classify(err, "park messages")
		}
	}
	for _, row := range b.refused {
		if err := guilty[row.ID]; err != nil {
			if err := b.relay.park(ctx, row, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// park makes a row a dead letter and holds back what is behind it in its key.
func (r *Relay) park(ctx context.Context, row outboxRow, reason error) error {
	r.log.Error("relay: the broker refuses a message; its key is parked", "topic", row.Topic, "key", row.Key, "message", row.MessageID, "error", reason)
	_, err := r.db.ExecContext(ctx, `
		WITH dead AS (DELETE FROM outbox WHERE id = $1 RETURNING *), held AS (
			UPDATE outbox SET due_at = 'infinity', consumer = NULL, line = NULL WHERE topic = $2 AND key = $3 AND shard = $4 AND due_at IS NULL AND id <> $1)
		INSERT INTO dead_letters (id, consumer, message_id, topic, key, headers, payload, reason, attempts, outbox_id, first_at, last_at)
		SELECT message_id || '@relay', 'relay', message_id, topic, key, headers, payload, $5, 2, id, created_at, now() FROM dead
		ON CONFLICT (consumer, message_id) DO UPDATE SET last_at = now(), attempts = dead_letters.attempts + 2`,
		row.ID, row.Topic, row.Key, ShardOf(row.Topic, row.Key), reason.Error())
	if err == nil {
		r.options.OnParked(row.Topic, row.Key, reason)
	}
	return txn.Classify(err, "park "+row.Topic+" "+row.Key)
}
