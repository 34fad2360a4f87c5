// The check in the commit of a claim (ADR 38): it looks at each place where an earlier message of the key could wait. TestClaimConfirms has all of them.

package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Confirm fails the commit of the unit of work of ctx, with cqrs.ErrConflict, if a message of the claimed key that was committed before may not have been handled: it
// waits in the outbox, behind a dead letter, for its topic, or for a retry at its consumer; or if another relay may have sent one. M is the metadata of the
// message that the claim is for.
func (c *Claim) Confirm(ctx context.Context, consumer string, m cqrs.Meta) error {
	return confirmations.Write(ctx, confirmation{c, consumer, m})
}

// Failing returns a function that tells whether a claim is a cause of the error of a commit; nil if no claim is.
func Failing(err error) func(c *Claim) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	var keys [][2]string
	if !ok || pg.Code != txn.CodeBehind || json.Unmarshal([]byte(pg.Message), &keys) != nil {
		return nil
	}
	return func(c *Claim) bool { return slices.Contains(keys, [2]string{c.Topic, c.Key}) }
}

type confirmation struct {
	*Claim
	consumer string
	meta     cqrs.Meta
}

// OFFSET 0 keeps PostgreSQL from reading a whole table into a hash table, because it was small when the plan was made: a connection keeps a plan until the table is analysed.
var confirmations = &txn.Statement[confirmation]{
	Doing: "confirm that no earlier message of a key waits", Rank: 20,
	Query: func(rows []confirmation) (string, []any, error) {
		n := len(rows)
		shards, marks, generations, handled := make([]int16, n), make([]int64, n), make([]int64, n), []int64{}
		owners, topics, keys, consumers := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		sagas, steps, branches, ids := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		for i, c := range rows {
			shards[i], marks[i], generations[i] = c.shard, c.mark, c.generation
			handled = append(handled, c.handled...)
			owners[i], topics[i], keys[i], consumers[i] = c.held.owner, c.Topic, c.Key, c.consumer
			sagas[i], steps[i], branches[i], ids[i] = c.meta.SagaID, c.meta.SagaStep, string(c.meta.Branch), cqrs.InboxID(c.meta.Source, c.meta.ID)
		}
		return `WITH asked AS MATERIALIZED (SELECT * FROM
				unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $9::text[], $10::text[], $11::text[], $12::text[])
				WITH ORDINALITY AS c(shard, mark, generation, owner, topic, key, consumer, saga, step, branch, id, n)),
			waiting AS MATERIALIZED (SELECT topic, key FROM (SELECT shard, min(mark) AS mark FROM asked GROUP BY shard) s CROSS JOIN LATERAL (
				SELECT topic, key FROM outbox WHERE shard = s.shard AND due_at IS NULL AND id > s.mark AND topic = ANY($5) AND id <> ALL($8::bigint[]) OFFSET 0) o),
			claim AS MATERIALIZED (SELECT *, c.generation = (SELECT epoch FROM outbox_epoch LIMIT 1)
				AND EXISTS (SELECT FROM relay_leases l WHERE l.shard = c.shard AND l.owner = c.owner)
				AND (c.topic, c.key) NOT IN (SELECT topic, key FROM waiting)
				AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.outbox_id IS NOT NULL AND d.topic = c.topic AND d.key = c.key OFFSET 0)
				AND NOT EXISTS (SELECT FROM suspended_topics t WHERE t.topic = c.topic)
				AND NOT EXISTS (SELECT FROM blocked_keys b WHERE b.consumer = c.consumer AND b.key = convert_to(c.key, 'UTF8') OFFSET 0) AS holds
			FROM asked c),
			failed AS MATERIALIZED (SELECT demand(count(*) = 0, '` + txn.CodeBehind + `', json_agg(json_build_array(topic, key))::text) FROM claim WHERE NOT holds)
			SELECT c.n::int, c.branch = 'undo' OR EXISTS (SELECT FROM inbox i WHERE i.consumer = c.consumer AND i.message_id = c.id OFFSET 0)
				OR EXISTS (SELECT FROM inbox i WHERE i.consumer = c.consumer AND i.saga_id = c.saga AND i.saga_step = c.step AND i.branch IS NOT NULL OFFSET 0)
			FROM claim c, failed`,
			[]any{shards, marks, generations, owners, topics, keys, consumers, handled, sagas, steps, branches, ids}, nil
	},
	Read: func(rows []confirmation, result pgx.Rows) error {
		var n int
		var handledYet bool
		_, err := pgx.ForEachRow(result, []any{&n, &handledYet}, func() error {
			rows[n-1].handledYet = handledYet
			return nil
		})
		return err
	},
}
