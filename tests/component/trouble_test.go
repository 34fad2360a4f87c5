package component

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
	pgtopics "github.com/millrace/millrace/kit/postgres/topics"
	"github.com/millrace/millrace/tests/harness"
)

func producer(t *testing.T, i *harness.Instance) sarama.SyncProducer {
	t.Helper()
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	p, err := sarama.NewSyncProducer(i.Brokers(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// topics are those that carry something with an effect.
var topics = []string{
	"commands.orders", "commands.inventory", "commands.payments", "commands.shipments", "commands.sagas",
	"events.orders", "events.inventory", "events.payments", "events.shipments",
}

// Everything that was ever on a topic comes a second time, and a third: nothing happens twice.
func TestDuplicatesChangeNothing(t *testing.T) {
	kittest.Long(t)
	onEachBroker(t, testDuplicatesChangeNothing)
}

func testDuplicatesChangeNothing(t *testing.T, settings ...string) {
	i := harness.NewEnvironment(t, append(settings, "LOCAL_DELIVERY=off")...).Start() // so that the commands are on topics
	i.Stock(1000, "MUG-01", "TEE-02", "HEAVY-99")
	for _, method := range []string{"pm_ok", "pm_declined", "pm_capture_refused"} {
		i.Place(method, "MUG-01", "TEE-02")
	}
	i.Place("pm_ok", "HEAVY-99")
	i.Place("pm_ok", "MUG-01", "VOID-00")
	before := i.Consistent()
	var full []string
	for _, topic := range topics {
		full = append(full, i.Topic(topic))
	}
	calls := ledgerCalls(t, i)
	if len(settings) > 0 {
		repeatInPostgres(t, i, full)
	} else {
		repeatInKafka(t, i, full)
	}
	// An order that is placed after them in every partition's log ends after them.
	for range 40 {
		i.Place("pm_ok", "MUG-01")
	}
	after := i.Consistent()
	require.Equal(t, before.Orders+40, after.Orders)
	require.Equal(t, before.Cancelled, after.Cancelled)
	require.Equal(t, calls+40*3, ledgerCalls(t, i), "no external service is called again for a message that was handled")
	require.Empty(t, deadLetters(t, i))
}

// repeatInKafka sends all records of some topics twice more.
func repeatInKafka(t *testing.T, i *harness.Instance, topics []string) {
	t.Helper()
	var again []*sarama.ProducerMessage
	err := kafka.ReadAll(context.Background(), kafka.Config{Brokers: i.Brokers()}, topics, func(topic string, msg *message.Message) error {
		record := &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(msg.Metadata["ce_partitionkey"]), Value: sarama.ByteEncoder(msg.Payload)}
		for name, value := range msg.Metadata {
			record.Headers = append(record.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
		}
		again = append(again, record)
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(again), 60)
	p := producer(t, i)
	for range 2 {
		require.NoError(t, p.SendMessages(again))
		for _, record := range again {
			record.Metadata = nil
		}
	}
}

// repeatInPostgres inserts all messages of some topics twice more.
func repeatInPostgres(t *testing.T, i *harness.Instance, topics []string) {
	t.Helper()
	tx, err := kittest.OpenDB(t, i.DSN()).Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`LOCK TABLE topic_messages IN SHARE ROW EXCLUSIVE MODE`) // so that the ids of a topic become visible in their order
	require.NoError(t, err)
	again, err := tx.Exec(`INSERT INTO topic_messages (topic, message_id, payload, headers) SELECT topic, message_id, payload, headers
		FROM topic_messages, generate_series(1, 2) round WHERE topic = ANY($1) ORDER BY round, id`, topics)
	require.NoError(t, err)
	n, err := again.RowsAffected()
	require.NoError(t, err)
	require.Greater(t, n, int64(120))
	require.NoError(t, tx.Commit())
}

func ledgerCalls(t *testing.T, i *harness.Instance) (calls int) {
	t.Helper()
	for _, service := range []string{"payments", "carrier"} {
		var ledger struct{ Calls int }
		i.Do(http.MethodGet, "/v1/sandbox/"+service, "").JSON(t, &ledger)
		calls += ledger.Calls
	}
	return calls
}

type deadLetter struct {
	ID, Consumer, Topic, Key, Payload, Reason string
	Headers                                   map[string]string
	Attempts                                  int
}

func deadLetters(t *testing.T, i *harness.Instance) []deadLetter {
	t.Helper()
	var page struct {
		Letters []deadLetter `json:"dead_letters"`
	}
	i.Do(http.MethodGet, "/v1/dead-letters?limit=100", "").JSON(t, &page)
	return page.Letters
}

func toKafka(t *testing.T, i *harness.Instance) func(*sarama.ProducerMessage) {
	t.Helper()
	p := producer(t, i)
	return func(record *sarama.ProducerMessage) {
		_, _, err := p.SendMessage(record)
		require.NoError(t, err)
	}
}

// toPostgres publishes what would be a record of Kafka's by Watermill's SQL publisher.
func toPostgres(t *testing.T, i *harness.Instance) func(*sarama.ProducerMessage) {
	t.Helper()
	p, err := pgtopics.NewPublisher(sqlx.NewDb(kittest.OpenDB(t, i.DSN()), "pgx"), watermill.NopLogger{})
	require.NoError(t, err)
	return func(record *sarama.ProducerMessage) {
		msg := message.NewMessage(uuid.NewString(), []byte{})
		if record.Value != nil {
			msg.Payload, err = record.Value.Encode()
			require.NoError(t, err)
		}
		for _, h := range record.Headers {
			msg.Metadata[string(h.Key)] = string(h.Value)
		}
		if record.Key != nil {
			key, err := record.Key.Encode()
			require.NoError(t, err)
			msg.Metadata["ce_partitionkey"] = string(key)
		}
		require.NoError(t, p.Publish(record.Topic, msg))
	}
}

// A message that cannot be decoded becomes a dead letter with its reason, and blocks no other key.
func TestDeadLetterBlocksItsKeyOnly(t *testing.T) {
	onEachBroker(t, testDeadLetterBlocksItsKeyOnly)
}

func testDeadLetterBlocksItsKeyOnly(t *testing.T, settings ...string) {
	i := harness.NewEnvironment(t, settings...).Start()
	i.Stock(1000, "MUG-01")
	to := toKafka
	if len(settings) > 0 {
		to = toPostgres
	}
	send := to(t, i)
	headers := func(pairs ...string) (out []sarama.RecordHeader) {
		for n := 0; n+1 < len(pairs); n += 2 {
			out = append(out, sarama.RecordHeader{Key: []byte(pairs[n]), Value: []byte(pairs[n+1])})
		}
		return out
	}
	known := func(name string, more ...string) []sarama.RecordHeader {
		return headers(append([]string{"ce_id", "x", "ce_type", name, "schema_version", "1"}, more...)...)
	}
	cases := map[string]struct {
		topic   string
		payload string
		headers []sarama.RecordHeader
		reason  string
	}{
		"no headers":        {"commands.orders", `{}`, nil, "no header ce_type"},
		"no id":             {"commands.orders", `{}`, headers("ce_type", "ConfirmOrder"), "no header ce_id"},
		"unknown command":   {"commands.orders", `{}`, known("EatOrder"), `header ce_type: "EatOrder"`},
		"wrong destination": {"commands.orders", `{}`, known("ReserveStock"), "is no command for orders"},
		"no JSON":           {"commands.orders", `{"order_id":`, known("ConfirmOrder"), "decode ConfirmOrder"},
		"wrong type":        {"commands.orders", `{"order_id":7}`, known("ConfirmOrder"), "decode ConfirmOrder"},
		"newer schema":      {"commands.orders", `{}`, headers("ce_id", "x", "ce_type", "ConfirmOrder", "schema_version", "9"), "schema version 9"},
		"odd time":          {"commands.orders", `{}`, known("ConfirmOrder", "expires_at", "soon"), "header millrace_expires_at"},
		"odd branch":        {"commands.orders", `{}`, known("ConfirmOrder", "saga_branch", "sideways"), "header millrace_saga_branch"},
		"branch alone":      {"commands.orders", `{}`, known("ConfirmOrder", "saga_branch", "do"), "needs millrace_saga_id"},
		"unknown event":     {"events.inventory", `{}`, known("inventory.eaten"), `header ce_type: "inventory.eaten"`},
		"event: no JSON":    {"events.inventory", `no`, known("inventory.reserved"), "decode inventory.reserved"},
		"event: no headers": {"events.payments", "\xff\xfe", nil, "no header ce_type"},
		"tombstone":         {"events.shipments", "", nil, "no header ce_type"},
	}
	for name, c := range cases {
		record := &sarama.ProducerMessage{
			Topic: i.Topic(c.topic), Key: sarama.StringEncoder(name), Value: sarama.StringEncoder(c.payload),
			Headers: append(c.headers, headers("ce_id", name)...), // the last one counts
		}
		if c.payload == "" {
			record.Value = nil
		}
		send(record)
	}
	// The one without an id must stay without.
	send(&sarama.ProducerMessage{Topic: i.Topic("commands.payments"), Value: sarama.StringEncoder("no id"), Headers: headers("ce_type", "VoidPayment")})
	for name, c := range cases {
		if name == "no id" {
			continue
		}
		kittest.Eventually(t, func() error {
			for _, l := range deadLetters(t, i) {
				if l.Key == name && strings.HasSuffix(l.Topic, c.topic) {
					require.Contains(t, l.Reason, c.reason, name)
					require.Equal(t, 1, l.Attempts, name)
					return nil
				}
			}
			return fmt.Errorf("%s: no dead letter among %d", name, len(deadLetters(t, i)))
		})
	}
	kittest.Eventually(t, func() error {
		for _, l := range deadLetters(t, i) {
			if l.Payload == "no id" && strings.Contains(l.Reason, "no header ce_id") {
				return nil
			}
		}
		return fmt.Errorf("no dead letter for the message without an id")
	})
	one := deadLetters(t, i)[0]
	var single deadLetter
	i.Do(http.MethodGet, "/v1/dead-letters/"+one.ID, "").JSON(t, &single)
	require.Equal(t, one, single)
	output, code := run(t, nil, "deadletters", "drop", one.ID, "--url", i.URL)
	require.Equal(t, 2, code, output)
	require.Contains(t, output, "say why")
	output, code = run(t, nil, "deadletters", "drop", one.ID, "--reason", "nonsense", "--url", i.URL)
	require.Zero(t, code, output)
	require.Equal(t, http.StatusNotFound, i.Do(http.MethodGet, "/v1/dead-letters/"+one.ID, "").Status)
	left := len(deadLetters(t, i))
	output, code = run(t, nil, "deadletters", "redrive", "--all", "--url", i.URL)
	require.Zero(t, code, output)
	var replayed int
	_, err := fmt.Sscanf(output, "%d replayed", &replayed)
	require.NoError(t, err, output)
	require.GreaterOrEqual(t, replayed, left, "further consumers of a topic may have met its messages meanwhile")
	for range 24 { // every partition goes on
		i.Place("pm_ok", "MUG-01")
	}
	require.Equal(t, 24, i.Consistent().Confirmed)
}

// withStoppableBroker makes an environment and returns what stops and starts its broker.
func withStoppableBroker(t *testing.T, settings ...string) (w *harness.Environment, stop, start func()) {
	t.Helper()
	if stopCommand := os.Getenv("KAFKA_STOP"); kittest.Real() && stopCommand != "" {
		w = harness.NewEnvironment(t, settings...)
		run := func(name string) func() {
			return func() {
				out, err := exec.Command("bash", "-c", os.Getenv(name)).CombinedOutput() // the tester's own
				require.NoError(t, err, "%s: %s", name, out)
			}
		}
		away := false
		stop = func() {
			away = true
			run("KAFKA_STOP")()
			kittest.Stopped(t, strings.Split(os.Getenv("KAFKA_BROKERS"), ",")...)
		}
		start = func() { run("KAFKA_START")(); away = false }
		t.Cleanup(func() {
			if away {
				start() // for the next test
			}
		})
	} else if kittest.Real() {
		t.Skip("KAFKA_STOP and KAFKA_START are not set to commands that stop and start the broker")
	} else {
		dir := t.TempDir()
		broker, err := embedded.StartKafka(dir, 0)
		require.NoError(t, err)
		var port int
		_, err = fmt.Sscanf(broker.Brokers[0], "127.0.0.1:%d", &port)
		require.NoError(t, err)
		t.Cleanup(func() { broker.Stop() })
		w = harness.NewEnvironment(t, append(settings, "KAFKA_BROKERS="+broker.Brokers[0])...)
		stop = broker.Stop
		start = func() {
			broker, err = embedded.StartKafka(dir, port)
			require.NoError(t, err)
		}
	}
	return w, stop, start
}

// While the broker is away orders are accepted; afterwards everything arrives. The instance takes its leases anew meanwhile, so it does not know any more what it
// has sent: no saga begins whose command would wait until its deadline is over.
func TestBrokerDown(t *testing.T) {
	kittest.Long(t)
	w, stop, start := withStoppableBroker(t)
	i := w.Start()
	i.Stock(1000, "MUG-01")
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	stop()
	i.Signal(syscall.SIGSTOP)
	time.Sleep(7 * time.Second) // longer than a lease
	i.Signal(syscall.SIGCONT)
	time.Sleep(2 * time.Second)
	for range 20 {
		i.Place("pm_ok", "MUG-01")
	}
	time.Sleep(21 * time.Second) // longer than the first step's timeout
	kittest.Eventually(t, func() error {
		var list struct {
			Breakers []struct{ Name, State string }
		}
		i.Place("pm_ok", "MUG-01")
		i.Do(http.MethodGet, "/v1/breakers", "").JSON(t, &list)
		for _, b := range list.Breakers {
			if b.Name == "kafka" && b.State == "open" {
				return nil
			}
		}
		return fmt.Errorf("the breaker is not open: %+v", list)
	})
	ready := i.Do(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, ready.Status, "it still accepts")
	require.Contains(t, ready.Body, "kafka: degraded")
	var backlog struct{ Pending int }
	i.Do(http.MethodGet, "/v1/outbox", "").JSON(t, &backlog)
	require.Positive(t, backlog.Pending)
	start()
	report := i.Consistent()
	require.Equal(t, report.Orders, report.Confirmed, "%+v", report)
	require.GreaterOrEqual(t, report.Orders, 22)
}

// While the broker is away sagas go on, timers and compensations included, and new ones begin: a service of one instance needs it for nothing that it does itself.
// Other services and read models have the events when it is back.
func TestStepsGoOnWithoutBroker(t *testing.T) {
	kittest.Long(t)
	w, stop, start := withStoppableBroker(t)
	i := w.Start()
	i.Stock(1000, "MUG-01")
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	db := kittest.OpenDB(t, i.DSN())
	sendToMissing(t, db)
	i.SetFaults("payments", `{"latency":"4s"}`)
	const orders = 30
	for n := range orders {
		method := "pm_ok"
		if n == 0 {
			method = "pm_slow" // its deadline ends it
		}
		inStep(t, i, i.Place(method, "MUG-01"), "authorise payment")
	}
	stop()
	i.SetFaults("payments", `{"latency":"0s"}`)
	for range orders {
		i.Place("pm_ok", "MUG-01")
	}
	eventuallyEnded(t, db, 2*orders, 1)
	kittest.Eventually(t, func() error { // their rows are deleted soon after
		var left int
		require.NoError(t, db.QueryRow(`SELECT count(*) FROM outbox WHERE topic LIKE '%commands%' AND due_at IS NULL`).Scan(&left))
		if left > 0 {
			return fmt.Errorf("%d commands are left", left)
		}
		return nil
	})
	start()
	report := i.Consistent()
	require.Equal(t, 2*orders, report.Confirmed, "%+v", report)
	require.Equal(t, 2*orders+1, report.Orders, "%+v", report)
}

// sendToMissing sends messages of many keys to a service that is not there yet: its topic is tried again and again, by each relay.
func sendToMissing(t *testing.T, db *sql.DB) {
	t.Helper()
	const topic = "others.commands.missing"
	for n := range 50 {
		key := fmt.Sprint("k", n)
		_, err := db.Exec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ($1, $2, $3, $4, '{}', '{}')`, uuid.NewString(), topic, key, outbox.ShardOf(topic, key))
		require.NoError(t, err)
	}
	kittest.Eventually(t, func() error {
		return db.QueryRow(`SELECT FROM suspended_topics`).Scan()
	})
}

// After the topics of commands were deleted and made again, commands are handed over as before, so the next outage stops no saga: what was known of the former topics, which were
// longer, says nothing.
func TestStepsGoOnAfterTopicsWereMadeAgain(t *testing.T) {
	kittest.Long(t)
	w, stop, start := withStoppableBroker(t)
	i := w.Start("LOCAL_DELIVERY=off")
	i.Stock(1000, "MUG-01")
	const orders = 20
	for range orders {
		require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	}
	w.Set("LOCAL_DELIVERY", "on")
	i.Terminate()
	i = w.Start()
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: i.Brokers()})
	require.NoError(t, err)
	defer admin.Close() // nothing is pending
	for _, topic := range []string{"commands.inventory", "commands.payments", "commands.shipments", "commands.orders"} {
		require.NoError(t, admin.DeleteTopic(i.Topic(topic)))
	}
	time.Sleep(10 * time.Second) // subscribers look for another topic of the name each few seconds
	for range 3 {
		require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	}
	time.Sleep(10 * time.Second)
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	stop()
	for range orders {
		i.Place("pm_ok", "MUG-01")
	}
	eventuallyEnded(t, kittest.OpenDB(t, i.DSN()), 2*orders+5, 0)
	start()
	report := i.Consistent()
	require.Equal(t, 2*orders+5, report.Confirmed, "%+v", report)
}

// eventuallyEnded waits until so many orders are confirmed and cancelled. If they are not, it says which orders are open, and what waits for the broker.
func eventuallyEnded(t *testing.T, db *sql.DB, confirmed, cancelled int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			var open, waiting string
			_ = db.QueryRow(`SELECT string_agg(what, E'\n') FROM (SELECT stream || ': ' || string_agg(type || ' ' || at::time, ', ' ORDER BY version) AS what
				FROM events GROUP BY stream HAVING stream LIKE 'orders/%' AND NOT bool_or(type IN ('order.confirmed', 'order.cancelled'))) s`).Scan(&open)
			_ = db.QueryRow(`SELECT string_agg(what, E'\n') FROM (SELECT format('%s %s of %s, %s, due %s', id, headers->>'ce_type', key,
				COALESCE('handled by ' || (headers->>'millrace_handled_by'), 'not handled'), due_at) AS what FROM outbox ORDER BY id LIMIT 500) s`).Scan(&waiting)
			t.Logf("open orders:\n%s\nwaiting for the broker:\n%s", open, waiting)
		}
	}()
	kittest.Eventually(t, func() error {
		var ended [2]int
		require.NoError(t, db.QueryRow(`SELECT count(*) FILTER (WHERE type = 'order.confirmed'), count(*) FILTER (WHERE type = 'order.cancelled') FROM events`).Scan(&ended[0], &ended[1]))
		if ended != [2]int{confirmed, cancelled} {
			return fmt.Errorf("%d orders are confirmed, %d cancelled", ended[0], ended[1])
		}
		return nil
	})
}

// The instance is killed between any two steps, again and again; each time every saga continues to its end, and the invariants hold.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	kittest.Long(t)
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(10_000, "MUG-01", "TEE-02")
	ways := []struct {
		method string
		sku    string
		until  []string // the steps at which it is killed
	}{
		{"pm_ok", "TEE-02", []string{"", "reserve stock", "authorise payment", "book shipment", "capture payment", "take stock out", "confirm order"}},
		{"pm_capture_refused", "TEE-02", []string{"book shipment", "authorise payment", "reserve stock", "cancel order"}},
	}
	orders := 0
	for _, way := range ways {
		for n, step := range way.until {
			id := i.Place(way.method, "MUG-01", way.sku)
			for range 5 {
				i.Place(way.method, "MUG-01", way.sku)
			}
			orders += 6
			killWhen(t, i, id, step, way.method != "pm_ok")
			i.Restart()
			i.Decided(id)
			report := i.Consistent()
			require.Equal(t, orders, report.Orders, "%s %d", way.method, n)
		}
	}
}

// killWhen kills the instance as soon as a saga has reached a step, forwards or backwards.
func killWhen(t *testing.T, i *harness.Instance, orderID, step string, backwards bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for step != "" && time.Now().Before(deadline) {
		var page struct{ Sagas []kittest.Saga }
		_, body, err := i.Get("/v1/sagas?limit=100")
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(body), &page))
		for _, s := range page.Sagas {
			status := s.Statuses()[step]
			if s.Subject == orderID && (!backwards && status != "waiting" || backwards && (status == "compensating" || status == "compensated" || step == "cancel order" && status != "")) {
				i.Kill()
				return
			}
		}
	}
	i.Kill()
}

func TestCleanStop(t *testing.T) { onEachBroker(t, testCleanStop) }

func testCleanStop(t *testing.T, settings ...string) {
	i := harness.NewEnvironment(t, settings...).Start()
	i.Stock(1000, "MUG-01")
	for range 30 {
		i.Place("pm_ok", "MUG-01")
	}
	stopped := time.Now()
	code, took := i.Terminate() // in the middle of it
	require.Zero(t, code, i.Output())
	require.Less(t, took, 10*time.Second)
	require.NotContains(t, i.Output(), "level=ERROR", "nothing is torn off")
	i.Restart()
	away := time.Since(stopped)
	report := i.Consistent()
	require.Equal(t, 30, report.Orders)
	if away < 5*time.Second {
		require.Equal(t, 30, report.Confirmed, "%v", report.ByReason)
	}
	// On a computer so slow that the start takes as long as a step may, such orders are cancelled, and nothing else is.
	for reason := range report.ByReason {
		require.Contains(t, reason, "no answer in time")
	}
}
