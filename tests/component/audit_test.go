package component

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

type auditReport struct {
	Consistent bool
	Checks     []struct {
		Check           string
		Checked, Faults int64
		IDs             []string
	}
}

func audit(t *testing.T, i *harness.Instance) (r auditReport, code int) {
	t.Helper()
	output, code := i.Audit("--json")
	first, _, _ := strings.Cut(output, "\n")
	require.NoError(t, json.Unmarshal([]byte(first), &r), output)
	return r, code
}

// The audit of a working service finds nothing; each kind of fault is found, by the check that is meant for it, with its id.
func TestAuditFindsEachFault(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	for range 110 { // past the version at which a snapshot is taken
		response := i.Do(http.MethodPost, "/v1/stock/SNAP/receipts", `{"quantity":1}`)
		require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	}
	i.Stock(100, "MUG-01")
	id := i.Place("pm_ok", "MUG-01")
	require.Equal(t, "confirmed", i.Decided(id).Status)
	saga := i.SagaOf(id).ID
	i.Consistent()
	clean, code := audit(t, i)
	require.Zero(t, code, "%+v", clean)
	require.True(t, clean.Consistent)
	for _, c := range clean.Checks {
		if c.Check == "snapshots: equal to the fold of their streams" || c.Check == "sagas: rows equal to the fold of their streams" || c.Check == "streams: versions 1 to n, no gap" {
			require.Positive(t, c.Checked, c.Check)
		}
	}
	i.ExpectFaults() // of the audit at the test's end

	db := kittest.OpenDB(t, i.DSN())
	for _, fault := range []struct{ check, id, spoil, repair string }{
		{
			"streams: versions 1 to n, no gap", "orders/" + id,
			`CREATE TABLE kept AS SELECT * FROM events WHERE stream = 'orders/` + id + `' AND version = 1; DELETE FROM events WHERE stream = 'orders/` + id + `' AND version = 1`,
			`ALTER TABLE events DISABLE TRIGGER USER; INSERT INTO events SELECT * FROM kept; ALTER TABLE events ENABLE TRIGGER USER; DROP TABLE kept`,
		},
		{
			"positions: rise with the versions of a stream", "orders/" + id,
			`UPDATE events SET position = -position WHERE stream = 'orders/` + id + `' AND version = 2`,
			`UPDATE events SET position = -position WHERE stream = 'orders/` + id + `' AND version = 2`,
		},
		{
			"positions: unique", "2 events",
			`DROP INDEX events_by_position; INSERT INTO events SELECT 'orders/other', 1, position, type, schema, payload, meta, at FROM events WHERE stream = 'orders/` + id + `' AND version = 1`,
			`DELETE FROM events WHERE stream = 'orders/other'; CREATE UNIQUE INDEX events_by_position ON events (position)`,
		},
		{
			"snapshots: equal to the fold of their streams", "inventory/SNAP",
			`UPDATE snapshots SET state = jsonb_set(state::jsonb, '{on_hand}', '7') WHERE stream = 'inventory/SNAP'`,
			`DELETE FROM snapshots WHERE stream = 'inventory/SNAP'`,
		},
		{
			"sagas: rows equal to the fold of their streams", saga,
			`UPDATE saga_instances SET status = 'running' WHERE saga_id = '` + saga + `'`,
			`UPDATE saga_instances SET status = 'completed' WHERE saga_id = '` + saga + `'`,
		},
		{
			"sagas: rows equal to the fold of their streams", "a stream without a row",
			`CREATE TABLE kept AS SELECT * FROM saga_instances; DELETE FROM saga_instances`,
			`INSERT INTO saga_instances SELECT * FROM kept; DROP TABLE kept`,
		},
		{
			"relay: each message is in the shard of its key", "misplaced",
			`INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at) VALUES ('m', 'nowhere', 'misplaced', 99, '', '{}', now() + interval '1 hour')`,
			`DELETE FROM outbox WHERE message_id = 'm'`,
		},
		{
			"relay: each blocked key has an open dead letter", "no-letter",
			`INSERT INTO outbox (message_id, topic, key, shard, payload, headers, due_at) VALUES ('m', 'nowhere', 'no-letter', 0, '', '{}', 'infinity')`,
			`DELETE FROM outbox WHERE message_id = 'm'`,
		},
		{
			"key queue: each blocked key has waiting messages, and each waiting message a blocked key", "no-messages",
			`INSERT INTO blocked_keys (consumer, key, due_at) VALUES ('nobody', 'no-messages', now() + interval '1 hour')`,
			`DELETE FROM blocked_keys WHERE key = 'no-messages'`,
		},
		{
			"key queue: each blocked key has waiting messages, and each waiting message a blocked key", "no-block",
			`INSERT INTO waiting_messages (receipt, consumer, key, topic, source, message_id, headers) VALUES ('r', 'nobody', 'no-block', 't', '', 'm', '[]')`,
			`DELETE FROM waiting_messages WHERE key = 'no-block'`,
		},
		{
			"key queue: a key that waits for an operator has an open dead letter", "for-ever",
			`INSERT INTO blocked_keys (consumer, key, due_at) VALUES ('nobody', 'for-ever', 'infinity');
			INSERT INTO waiting_messages (receipt, consumer, key, topic, source, message_id, headers) VALUES ('r', 'nobody', 'for-ever', 't', '', 'm', '[]')`,
			`DELETE FROM blocked_keys WHERE key = 'for-ever'; DELETE FROM waiting_messages WHERE key = 'for-ever'`,
		},
	} {
		_, err := db.Exec(fault.spoil)
		require.NoError(t, err, fault.check)
		report, code := audit(t, i)
		require.Equal(t, 1, code, fault.check)
		require.False(t, report.Consistent)
		for _, c := range report.Checks {
			if c.Check == fault.check {
				require.Equal(t, int64(1), c.Faults, "%+v", report)
				require.Contains(t, fmt.Sprint(c.IDs), fault.id)
			} else if fault.check != "positions: rise with the versions of a stream" {
				require.Zero(t, c.Faults, "%s: %+v", fault.check, c)
			}
		}
		table, code := i.Audit()
		require.Equal(t, 1, code)
		require.Contains(t, table, fault.id)
		_, err = db.Exec(fault.repair)
		require.NoError(t, err, fault.check)
		report, code = audit(t, i)
		require.Zero(t, code, "%s, mended: %+v", fault.check, report)
	}
}
