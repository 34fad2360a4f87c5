package component

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// failOn makes every insertion of an event of some type into some streams fail, with an unknown error, until it is
// stopped.
func failOn(t *testing.T, i *harness.Instance, name, streams, types string) (repair func()) {
	t.Helper()
	db := kittest.OpenDB(t, i.DSN())
	_, err := db.Exec(fmt.Sprintf(`
		CREATE FUNCTION fail_%[1]s() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken on purpose' USING ERRCODE = 'MR001'; END $$;
		CREATE TRIGGER fail_%[1]s BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.stream LIKE '%[2]s' AND NEW.type LIKE '%[3]s') EXECUTE FUNCTION fail_%[1]s()`,
		name, streams, types))
	require.NoError(t, err)
	return func() {
		_, err := db.Exec(fmt.Sprintf(`DROP TRIGGER fail_%[1]s ON events`, name))
		require.NoError(t, err)
	}
}

func findDeadLetter(t *testing.T, i *harness.Instance, commandType string) deadLetter {
	t.Helper()
	var found deadLetter
	kittest.Eventually(t, func() error {
		for _, l := range deadLetters(t, i) {
			if l.Headers["ce_type"] == commandType {
				found = l
				return nil
			}
		}
		return fmt.Errorf("no dead letter of a %s", commandType)
	})
	page := i.Do(http.MethodGet, "/ui/dead-letters/"+found.ID, "")
	require.Equal(t, http.StatusOK, page.Status, page.Body)
	return found
}

// onEachBroker runs a test with Kafka, and with tables of PostgreSQL in its place: what is promised holds whatever carries the messages.
func onEachBroker(t *testing.T, test func(t *testing.T, settings ...string)) {
	t.Helper()
	t.Parallel()
	for name, settings := range map[string][]string{"Kafka": nil, "PostgreSQL": {"BROKER=postgres", "KAFKA_BROKERS="}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, settings...)
		})
	}
}

// A message that cannot be handled is retried later, then becomes a dead letter; meanwhile its key is blocked, and no other. Replayed, it
// comes first.
func TestRetryBlocksOneKey(t *testing.T) {
	kittest.Long(t)
	onEachBroker(t, testRetryBlocksOneKey)
}

func testRetryBlocksOneKey(t *testing.T, settings ...string) {
	i := harness.NewEnvironment(t, settings...).Start()
	receive := func(sku string, quantity int) {
		response := i.Do(http.MethodPost, "/v1/stock/"+sku+"/receipts", fmt.Sprintf(`{"quantity":%d}`, quantity))
		require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	}
	received := func(sku string) (n int64) {
		var stock struct{ Received int64 }
		_ = i.Do(http.MethodGet, "/v1/stock/"+sku, "") // may not be there yet
		i.Do(http.MethodGet, "/v1/stock/"+sku, "").JSON(t, &stock)
		return stock.Received
	}
	eventually := func(sku string, n int64) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if got := received(sku); got != n {
				return fmt.Errorf("%s: received %d, not %d", sku, got, n)
			}
			return nil
		})
	}
	repair := failOn(t, i, "receipts", "inventory/BAD", "%")
	for n := range 5 {
		receive("BAD", 1<<n)
	}
	for n := range 40 { // in every partition
		receive(fmt.Sprint("GOOD-", n), 7)
	}
	for n := range 40 {
		eventually(fmt.Sprint("GOOD-", n), 7)
	}
	dead := findDeadLetter(t, i, "ReceiveStock")
	require.Equal(t, "BAD", dead.Key)
	require.Contains(t, dead.Reason, "broken on purpose")
	require.Greater(t, dead.Attempts, 3)
	require.JSONEq(t, `{"sku":"BAD","quantity":1}`, dead.Payload)
	require.Len(t, deadLetters(t, i), 1, "what is behind it has not failed")
	for name, least := range map[string]float64{"millrace_dead_letters": 1, "millrace_blocked_keys": 1, "millrace_waiting_messages": 5, "millrace_messages_failed_total": 4} {
		got, err := metric(t, i, name)
		require.NoError(t, err)
		require.GreaterOrEqual(t, got, least, name)
	}

	output, code := run(t, nil, "deadletters", "redrive", dead.ID, "--url", i.URL)
	require.Zero(t, code, output)
	require.Empty(t, deadLetters(t, i), "it is tried for some seconds")
	again := findDeadLetter(t, i, "ReceiveStock") // it fails again, and is still the first
	require.Equal(t, dead.ID, again.ID, "a message has one dead letter")
	repair()
	require.JSONEq(t, `{"sku":"BAD","quantity":1}`, again.Payload)
	output, code = run(t, nil, "deadletters", "redrive", again.ID, "--url", i.URL)
	require.Zero(t, code, output)
	eventually("BAD", 31)
	order := kittest.Column(t, kittest.OpenDB(t, i.DSN()), `SELECT payload->>'quantity' FROM events WHERE stream = 'inventory/BAD' ORDER BY version`)
	require.Equal(t, []string{"1", "2", "4", "8", "16"}, order)
	i.Consistent()
}

// When a dead letter is dropped, the next message of its key is processed.
func TestKeyContinuesAfterADrop(t *testing.T) {
	kittest.Long(t)
	onEachBroker(t, testKeyContinuesAfterADrop)
}

func testKeyContinuesAfterADrop(t *testing.T, settings ...string) {
	i := harness.NewEnvironment(t, settings...).Start()
	db := kittest.OpenDB(t, i.DSN())
	repair := failOn(t, i, "receipts", "inventory/BAD", "%")
	for _, quantity := range []int{1, 2, 4} {
		i.Do(http.MethodPost, "/v1/stock/BAD/receipts", fmt.Sprintf(`{"quantity":%d}`, quantity))
	}
	dead := findDeadLetter(t, i, "ReceiveStock")
	repair()
	output, code := run(t, nil, "deadletters", "drop", dead.ID, "--reason", "counted twice", "--url", i.URL)
	require.Zero(t, code, output)
	kittest.Eventually(t, func() error {
		var stock struct{ Received int64 }
		i.Do(http.MethodGet, "/v1/stock/BAD", "").JSON(t, &stock)
		if stock.Received != 6 {
			return fmt.Errorf("received %d", stock.Received)
		}
		return nil
	})
	var by, reason string
	require.NoError(t, db.QueryRow(`SELECT dropped_by, drop_reason FROM dead_letters WHERE id = $1`, dead.ID).Scan(&by, &reason))
	require.Equal(t, []string{"guest", "counted twice"}, []string{by, reason})
	kittest.Eventually(t, func() error {
		var blocked int
		require.NoError(t, db.QueryRow(`SELECT count(*) FROM blocked_keys`).Scan(&blocked))
		if blocked > 0 {
			return fmt.Errorf("%d keys are still blocked", blocked)
		}
		return nil
	})
	i.Consistent()
}

// No saga hangs for a dead letter: before the pivot the step is refused, in doubt and undone; after it the saga is stuck and says so.
func TestDeadCommandIsAnswered(t *testing.T) {
	kittest.Long(t)
	onEachBroker(t, testDeadCommandIsAnswered)
}

func testDeadCommandIsAnswered(t *testing.T, settings ...string) {
	i := harness.NewEnvironment(t, settings...).Start()
	i.Stock(1000, "MUG-01")

	repair := failOn(t, i, "payments", "payments/%", "payment.authorised")
	order := i.Decided(i.Place("pm_ok", "MUG-01"))
	require.Equal(t, "cancelled", order.Status)
	require.Contains(t, order.Reason, "broken on purpose")
	require.Equal(t, "compensated", eventually(t, i, order.ID, "compensated").Statuses()["authorise payment"], "the provider had it: it is voided")
	dead := findDeadLetter(t, i, "AuthorisePayment")
	repair()
	response := i.Do(http.MethodPost, "/v1/dead-letters/"+dead.ID+"/redrive", "")
	require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	db := kittest.OpenDB(t, i.DSN())
	kittest.Eventually(t, func() error { // too late: it is refused by the barrier, or out of time
		var outcome string
		err := db.QueryRow(`SELECT outcome FROM inbox WHERE message_id = $1`, dead.Headers["ce_id"]).Scan(&outcome)
		if err == nil {
			require.Contains(t, []string{"barred", "expired"}, outcome)
		}
		return err
	})

	t.Run("a fallback stands in", func(t *testing.T) {
		repair := failOn(t, i, "shipments", "shipments/0%", "shipment.booked") // the courier's begin with c
		defer repair()
		order := i.Decided(i.Place("pm_ok", "MUG-01"))
		require.Equal(t, "confirmed", order.Status, order.Reason)
		statuses := i.SagaOf(order.ID).Statuses()
		require.Equal(t, "compensated", statuses["book shipment"])
		require.Equal(t, "completed", statuses["book courier"])
	})
	t.Run("after the pivot it is stuck", func(t *testing.T) {
		repair := failOn(t, i, "inventory", "inventory/%", "inventory.committed")
		id := i.Place("pm_ok", "MUG-01")
		saga := eventually(t, i, id, "stuck")
		require.Contains(t, saga.Steps[4].Reason, "broken on purpose")
		repair()
		if output, code := run(t, nil, "sagas", "retry", saga.ID, "--url", i.URL); code != 0 {
			require.Contains(t, output, "the saga is not stuck", "its time was over just now, and it was asked again by itself")
		}
		require.Equal(t, "confirmed", i.Decided(id).Status)
	})
	i.Consistent()
	ended, err := metric(t, i, "millrace_saga_seconds_count")
	require.NoError(t, err)
	require.InDelta(t, 3, ended, 0, "each saga's duration, once")
}

// The second carrier stands in for the first: when that has no room, does not answer, or its breaker is open.
func TestTheCourierStandsIn(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	booked := func(id string) map[string]string {
		t.Helper()
		order := i.Decided(id)
		require.Equal(t, "confirmed", order.Status, order.Reason)
		return i.SagaOf(id).Statuses()
	}
	i.SetFaults("carrier", `{"refusal_rate":1}`)
	statuses := booked(i.Place("pm_ok", "MUG-01"))
	require.Equal(t, "refused", statuses["book shipment"])
	require.Equal(t, "completed", statuses["book courier"])
	refused := i.Decided(i.Place("pm_capture_refused", "MUG-01"))
	require.Equal(t, "compensated", eventually(t, i, refused.ID, "compensated").Statuses()["book courier"], "it is undone like any step")
	i.SetFaults("carrier", `{"refusal_rate":0}`)
	require.NotContains(t, booked(i.Place("pm_ok", "MUG-01")), "book courier")

	i.SetFaults("carrier", `{"down":true}`)
	var ids []string
	for range 12 { // enough for the breaker
		ids = append(ids, i.Place("pm_ok", "MUG-01"))
	}
	kittest.Eventually(t, func() error {
		id := i.Place("pm_ok", "MUG-01")
		ids = append(ids, id)
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if order := i.Order(id); order.Status == "confirmed" {
				steps := i.SagaOf(id).Statuses()
				require.Equal(t, "refused", steps["book shipment"])
				require.Equal(t, "completed", steps["book courier"])
				return nil
			}
		}
		return fmt.Errorf("the breaker is not open yet")
	})
	output, code := run(t, nil, "sagas", "show", i.SagaOf(ids[len(ids)-1]).ID, "--url", i.URL)
	require.Zero(t, code)
	require.Contains(t, output, "book courier (instead of book shipment)")
	i.SetFaults("carrier", `{"down":false}`)
	for _, id := range ids {
		if order := i.Decided(id); order.Status != "confirmed" {
			require.Contains(t, order.Reason, "no answer in time", strings.Join(ids, " "))
		}
	}
	i.Consistent()
}

// Messages that wait to be retried belong to no instance: when the one that handles them is killed, another goes on, in the order of each key.
func TestRetryOutlivesAKilledInstance(t *testing.T) {
	kittest.Long(t)
	onEachBroker(t, testRetryOutlivesAKilledInstance)
}

func testRetryOutlivesAKilledInstance(t *testing.T, settings ...string) {
	_, all := several(t, 2, settings...)
	db := kittest.OpenDB(t, all[1].DSN())
	_, err := db.Exec(`
		CREATE FUNCTION fail_receipts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'in use' USING ERRCODE = '55006'; END $$;
		CREATE TRIGGER fail_receipts BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.stream LIKE 'inventory/BAD-%') EXECUTE FUNCTION fail_receipts()`)
	require.NoError(t, err)
	const keys = 8
	for _, quantity := range []int{1, 2, 4} {
		for k := range keys {
			_, err := db.Exec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) SELECT $1, $2, $3, $4, $5::text::bytea, json_build_object(
				'ce_id', $1::text, 'ce_type', 'ReceiveStock', 'ce_partitionkey', $3::text, 'ce_source', '/test', 'ce_time', '2026-01-02T03:04:05Z')`,
				fmt.Sprintf("m-%d-%d", k, quantity), all[0].Topic("commands.inventory"), fmt.Sprint("BAD-", k), k, fmt.Sprintf(`{"sku":"BAD-%d","quantity":%d}`, k, quantity))
			require.NoError(t, err)
		}
	}
	kittest.Eventually(t, func() error {
		var waiting, attempts int
		require.NoError(t, db.QueryRow(`SELECT (SELECT count(*) FROM waiting_messages), COALESCE((SELECT min(attempts) FROM blocked_keys), 0)`).Scan(&waiting, &attempts))
		if waiting != 3*keys || attempts < 2 {
			return fmt.Errorf("%d messages wait, %d attempts", waiting, attempts)
		}
		return nil
	})
	all[0].Kill()
	_, err = db.Exec(`DROP TRIGGER fail_receipts ON events`)
	require.NoError(t, err)
	kittest.Eventually(t, func() error {
		if left := kittest.Column(t, db, `SELECT count(*)::text FROM blocked_keys`); left[0] != "0" {
			return fmt.Errorf("%s keys are blocked", left[0])
		}
		return nil
	})
	order := kittest.Column(t, db, `SELECT string_agg(payload->>'quantity', ' ' ORDER BY version) FROM events WHERE stream LIKE 'inventory/BAD-%' GROUP BY stream`)
	require.Equal(t, slices.Repeat([]string{"1 2 4"}, keys), order)
	require.Empty(t, deadLetters(t, all[1]))
	all[1].Consistent()
}
