package outbox

import (
	"context"
	"sync"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// RunTimers is Run where something else than this relay sends what is ready: Debezium, which reads the table's rows in the database's log
// (deploy/debezium). Here delayed messages are made ready when they are due, which Debezium sees as new rows, and rows that are ready are
// deleted: the log has them. Nothing is deleted while there is no replication slot of this name, which keeps the log for Debezium; slots of
// others do not count.
func (r *Relay) RunTimers(ctx context.Context, slot string) {
	var parts sync.WaitGroup
	parts.Go(func() { r.promote(ctx) })
	parts.Go(func() {
		for ctx.Err() == nil {
			result, err := r.db.ExecContext(ctx, `
				DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE due_at IS NULL ORDER BY id LIMIT 5000 FOR UPDATE SKIP LOCKED)
					AND EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND slot_type = 'logical' AND slot_name = $1)`, slot)
			if err != nil {
				if ctx.Err() == nil {
					r.log.Warn("relay: rows that are in the log stay", "error", txn.Classify(err, "delete rows of the outbox"))
				}
			} else if n, _ := result.RowsAffected(); n > 0 {
				r.options.OnRelayed(int(n))
			}
			pause(ctx, r.options.Poll)
		}
	})
	parts.Wait()
}
