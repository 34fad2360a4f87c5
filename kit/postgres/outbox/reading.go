// Reading due rows. A read that finds another generation of the outbox than the marks is repeated, so that it does not miss released rows. A pipeline holds a row at most
// once. TestBlockedKeyContinuesAfterReplay, TestDeadLetterReplayAndDropRaceWithRelay and TestTakenRowsAreNotReadInALoop show it.

package outbox

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// readEvery is the shortest time between two reads for the broker without a backlog, so that under load the relay sends fewer and larger batches. A message that is
// committed after a pause is read at once.
const readEvery = 5 * time.Millisecond

// read reads due rows, batch by batch.
func (p *pipeline) read(ctx context.Context, out chan<- *batch) {
	r := p.relay
	for ctx.Err() == nil {
		held := r.leases.use()
		if held == nil {
			p.backlog.Store(false)
			sleep(ctx, p.wake, r.options.Poll)
			continue
		}
		began := time.Now()
		rows, more, err := p.next(ctx, held.shards)
		var handled []outboxRow
		if p.local {
			handled = r.handed.handled(held.shards)
		}
		switch {
		case err != nil:
			r.handed.keep(handled)
			held.done()
			p.fail(err)
			return
		case len(rows)+len(handled) == 0 && (!p.local || p.ready.Load() && r.handed.generation() == p.generation.Load()):
			held.done()
		default:
			select {
			case out <- &batch{rows: rows, handled: handled, lease: held}:
			case <-ctx.Done():
				r.handed.keep(handled)
				held.done()
			}
		}
		if more {
			continue
		}
		sleep(ctx, p.wake, r.options.Poll)
		if !p.local {
			pause(ctx, readEvery-time.Since(began))
		}
	}
}

// maxAgain is the number of rows that a read may find again with their messages. If there may be more, the read returns only ids.
const maxAgain = 8

// next reads the next rows of some shards that the pipeline does not hold yet, and tells whether there may be more. It reads each shard
// separately, so that a shard with a long backlog does not delay the others. It reads only the ids of rows if their messages may be in the buffer, or if it will find many rows again
// that are not deleted yet.
func (p *pipeline) next(ctx context.Context, shards []int16) (rows []outboxRow, more bool, err error) {
	r := p.relay
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p.mu.Lock()
	numbers := !r.buffer.empty() || len(p.busy) > maxAgain || p.local && r.handed.size() > maxAgain
	p.mu.Unlock()
	for {
		if err := p.marks.advance(ctx, r.db); err != nil {
			return nil, false, err
		}
		marks, generation, candidates := p.marks.of(shards)
		p.mu.Lock()
		limits := p.limits(shards)
		clear(p.gone)
		p.mu.Unlock()
		var now int64
		if numbers {
			rows, now, numbers, err = p.numbers(ctx, shards, marks, limits)
			if err == nil && !numbers {
				continue
			}
		} else {
			rows, now, err = p.rows(ctx, shards, marks, limits)
		}
		if err != nil {
			return nil, false, txn.Classify(err, "read the outbox")
		}
		if now == generation {
			lowest, highest := map[int16]int64{}, int64(0)
			for _, row := range rows {
				lowest[row.Shard] = min(row.ID, cmp.Or(lowest[row.Shard], row.ID))
				highest = max(highest, row.ID)
			}
			p.marks.note(highest)
			p.marks.confirm(shards, generation, candidates, lowest)
			rows = p.fresh(rows)
			more = len(rows) >= p.relay.options.Batch // else no shard has reached its limit
			p.backlog.Store(more)
			left := p.leftOut()
			rows, err = p.complete(ctx, rows)
			return rows, more && (len(rows) > 0 || p.leftOut() > left), err // otherwise all rows are of claimed keys, and the end of a claim wakes the lane
		}
		p.marks.renew(now)
	}
}

// numbers reads the ids of rows and the generation. Enough is false if keys are blocked or topics suspended, because then the caller needs the rows'
// state too.
func (p *pipeline) numbers(ctx context.Context, shards []int16, marks, limits []int64) (rows []outboxRow, generation int64, enough bool, err error) {
	b := &pgx.Batch{}
	b.Queue(`
		SELECT (SELECT epoch FROM outbox_epoch), NOT EXISTS (SELECT FROM dead_letters WHERE outbox_id IS NOT NULL) AND NOT EXISTS (SELECT FROM suspended_topics), shard,
			ARRAY(SELECT id FROM outbox WHERE shard = s.shard AND due_at IS NULL AND id > s.mark AND (topic = ANY($4)) = $5 ORDER BY id LIMIT s.most)
		FROM (SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) LIMIT `+strconv.Itoa(len(shards))+`) s(shard, mark, most)`, shards, marks, limits, p.relay.options.Local, p.local).Query(func(found pgx.Rows) error {
		var shard int16
		var ids []int64
		_, err := pgx.ForEachRow(found, []any{&generation, &enough, &shard, &ids}, func() error {
			rows = slices.Grow(rows, len(ids))
			for _, id := range ids {
				rows = append(rows, outboxRow{ID: id, Shard: shard})
			}
			return nil
		})
		return err
	})
	err = txn.Send(ctx, p.relay.db, nil, b)
	return rows, generation, enough, err
}

const columns = `id, shard, topic, key, message_id, payload, headers`

// rows reads rows with their state (key blocked, topic suspended), and the generation, which is read even if no row is due.
func (p *pipeline) rows(ctx context.Context, shards []int16, marks, limits []int64) (rows []outboxRow, generation int64, err error) {
	err = p.relay.db.SelectContext(ctx, &rows, `
		SELECT e.epoch, COALESCE(o.id, 0) AS id, COALESCE(o.shard, 0) AS shard, COALESCE(o.topic, '') AS topic, COALESCE(o.key, '') AS key,
			COALESCE(o.message_id, '') AS message_id, o.payload, o.headers,
			CASE WHEN (SELECT EXISTS (SELECT FROM dead_letters WHERE outbox_id IS NOT NULL))
				THEN EXISTS (SELECT FROM dead_letters d WHERE d.outbox_id IS NOT NULL AND d.topic = o.topic AND d.key = o.key) ELSE false END AS parked,
			EXISTS (SELECT FROM suspended_topics t WHERE t.topic = o.topic) AS suspended
		FROM (SELECT epoch FROM outbox_epoch LIMIT 1) e LEFT JOIN (unnest($1::smallint[], $2::bigint[], $3::bigint[]) s(shard, mark, most) CROSS JOIN LATERAL (
			SELECT `+columns+` FROM outbox WHERE shard = s.shard AND due_at IS NULL AND id > s.mark AND (topic = ANY($4)) = $5
			ORDER BY id LIMIT s.most) o) ON true`, shards, marks, limits, p.relay.options.Local, p.local)
	if err != nil || len(rows) == 0 {
		return nil, 0, err
	}
	generation = rows[0].Generation
	if rows[0].ID == 0 {
		rows = nil
	}
	return rows, generation, err
}

// limits is the number of rows to read of each shard, including those that the pipeline already holds. It is called under the lock.
func (p *pipeline) limits(shards []int16) []int64 {
	busy := map[int16]int{}
	for _, shard := range p.busy {
		busy[shard]++
	}
	if p.local {
		p.relay.handed.count(busy)
		for shard, n := range p.waiting {
			busy[shard] += min(n, maxWaiting*p.relay.options.Batch)
		}
		for shard, n := range p.left {
			busy[shard] += min(n, maxWaiting*p.relay.options.Batch)
		}
	}
	out := make([]int64, len(shards))
	for i, shard := range shards {
		out[i] = int64(p.relay.options.Batch + busy[shard])
	}
	return out
}

// maxWaiting limits, in batches, the rows that are read in addition because others wait for the broker, so that the rows behind these can be handed over.
const maxWaiting = 8

// fresh drops the rows that the pipeline or handlers hold.
func (p *pipeline) fresh(rows []outboxRow) []outboxRow {
	fresh := rows[:0]
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, row := range rows {
		if _, busy := p.busy[row.ID]; !busy && !p.gone[row.ID] && !p.relay.handed.has(row.ID) {
			fresh = append(fresh, row)
		}
	}
	return fresh
}

// complete loads the messages of rows, and notes that the pipeline holds them.
func (p *pipeline) complete(ctx context.Context, fresh []outboxRow) ([]outboxRow, error) {
	r := p.relay
	missing := r.buffer.fill(fresh)
	if len(missing) > 0 {
		r.buffer.waitForCommits()
		missing = r.buffer.fill(fresh)
	}
	full := map[int64]outboxRow{}
	if len(missing) > 0 {
		var all []outboxRow
		if err := r.db.SelectContext(ctx, &all, `SELECT `+columns+` FROM outbox WHERE id = ANY($1)`, missing); err != nil {
			return nil, txn.Classify(err, "read the outbox")
		}
		for _, row := range all {
			full[row.ID] = row
		}
	}
	out := fresh[:0]
	for _, row := range fresh {
		if f, ok := full[row.ID]; ok {
			f.Blocked, f.Suspended = row.Blocked, row.Suspended
			row = f
		}
		if row.message == nil {
			if row.Headers == nil {
				continue // the row was deleted or blocked meanwhile
			}
			if err := row.decode(); err != nil {
				return nil, err
			}
		}
		out = append(out, row)
	}
	left := map[int16]int{}
	if p.local {
		out, left = r.handed.unclaimed(out)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = left
	for _, row := range out {
		p.busy[row.ID] = row.Shard
	}
	return out, nil
}
