package component

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// onHand is the stock of a SKU; -1 if it is unknown.
func onHand(t *testing.T, i *harness.Instance, sku string) int64 {
	t.Helper()
	status, body, err := i.Get("/v1/stock/" + sku)
	require.NoError(t, err)
	if status != http.StatusOK {
		return -1
	}
	var stock struct {
		OnHand int64 `json:"on_hand"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &stock))
	return stock.OnHand
}

func eventuallyOnHand(t *testing.T, i *harness.Instance, sku string, n int64) {
	t.Helper()
	kittest.Eventually(t, func() error {
		if got := onHand(t, i, sku); got != n {
			return fmt.Errorf("%s: %d on hand, not %d", sku, got, n)
		}
		return nil
	})
}

// external makes a record of the warehouse's, as a foreign producer does.
func external(topic string, partition int32, key []byte, payload string, headers ...string) *sarama.ProducerMessage {
	record := &sarama.ProducerMessage{Topic: topic, Partition: partition, Headers: []sarama.RecordHeader{{Key: []byte("ce_specversion"), Value: []byte("1.0")}}}
	if key != nil {
		record.Key = sarama.ByteEncoder(key)
	}
	if payload != "" {
		record.Value = sarama.StringEncoder(payload)
	}
	for n := 0; n+1 < len(headers); n += 2 {
		record.Headers = append(record.Headers, sarama.RecordHeader{Key: []byte(headers[n]), Value: []byte(headers[n+1])})
	}
	return record
}

// onPartition is a producer that leaves the choice of partitions to the test.
func onPartition(t *testing.T, i *harness.Instance) sarama.SyncProducer {
	t.Helper()
	config := sarama.NewConfig()
	config.Producer.Return.Successes, config.Producer.Partitioner = true, sarama.NewManualPartitioner
	config.Producer.Compression, config.Producer.MaxMessageBytes = sarama.CompressionGZIP, 8<<20
	p, err := sarama.NewSyncProducer(i.Brokers(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Records of another service may have any keys, ids, headers and payloads. What can be handled is handled, the rest is a dead letter that
// says why, and other records of the partition go on.
func TestHostileRecordsEndAsDeadLetters(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	topic := i.Topic("warehouse.events.deliveries")
	p := onPartition(t, i)
	arrived := func(sku string) string { return fmt.Sprintf(`{"sku":%q,"quantity":7}`, sku) }
	type record struct {
		key     []byte
		payload string
		headers []string
		handled string // SKU of which 7 are on hand afterwards
		reason  string // of the dead letter
	}
	event := func(id string, more ...string) []string {
		return append([]string{"ce_id", id, "ce_type", "delivery.arrived", "ce_source", "/warehouse"}, more...)
	}
	past := time.Now().Add(-time.Hour).Format(time.RFC3339)
	records := map[string]record{
		"binary key":                     {[]byte{0, 0, 0, 0, 0, 1, 0xfe, 0xff}, arrived("H-KEY"), event("h1"), "H-KEY", ""},
		"no key":                         {nil, arrived("H-NOKEY"), event("h2"), "H-NOKEY", ""},
		"long key":                       {[]byte(strings.Repeat("k", 6000)), arrived("H-LONGKEY"), event("h3"), "H-LONGKEY", ""},
		"unknown header of any bytes":    {[]byte("k4"), arrived("H-HEADER"), event("h4", "x\x00\xff", "y\x00\xfe"), "H-HEADER", ""},
		"first of two sources":           {[]byte("k5"), arrived("H-SOURCE-1"), event("same"), "H-SOURCE-1", ""},
		"second of two sources":          {[]byte("k6"), arrived("H-SOURCE-2"), []string{"ce_id", "same", "ce_type", "delivery.arrived", "ce_source", "/depot"}, "H-SOURCE-2", ""},
		"consumer header of a stranger":  {[]byte("k7"), arrived("H-CONSUMER"), event("h7", "consumer", "nobody"), "H-CONSUMER", ""},
		"headers header of a stranger":   {[]byte("k8"), arrived("H-HEADERS"), event("h8", "headers", `{"ce_id":"x","ce_type":"y"}`), "H-HEADERS", ""},
		"expires_at of a stranger":       {[]byte("k9"), arrived("H-EXPIRES"), event("h9", "expires_at", past), "H-EXPIRES", ""},
		"saga headers of a stranger":     {[]byte("k10"), arrived("H-SAGA"), event("h10", "saga_id", "s", "saga_step", "reserve stock", "saga_branch", "do"), "H-SAGA", ""},
		"prefixed headers of a stranger": {[]byte("k11"), arrived("H-PREFIX"), event("h11", "millrace_expires_at", past, "millrace_saga_branch", "sideways"), "H-PREFIX", ""},
		"3 MB, compressed":               {[]byte("k12"), fmt.Sprintf(`{"sku":"H-LARGE","quantity":7,"note":"%s"}`, strings.Repeat("large ", 500_000)), event("h12"), "H-LARGE", ""},
		"id with NUL":                    {[]byte("k20"), arrived("H-NO"), event("id\x00"), "", "header ce_id: contains a NUL character"},
		"id that is not UTF-8":           {[]byte("k21"), arrived("H-NO"), event("id\xff"), "", "header ce_id: is not valid UTF-8"},
		"id of 6,000 characters":         {[]byte("k22"), arrived("H-NO"), event(strings.Repeat("i", 6000)), "", "header ce_id: has 6000 bytes"},
		"subject with NUL":               {[]byte("k23"), arrived("H-NO"), event("h23", "ce_subject", "a\x00b"), "", "header ce_subject: contains a NUL"},
		"source that is not UTF-8":       {[]byte("k24"), arrived("H-NO"), []string{"ce_id", "h24", "ce_type", "delivery.arrived", "ce_source", "\xff"}, "", "header ce_source: is not valid UTF-8"},
		"NUL in the payload":             {[]byte("k25"), `{"sku":"a\u0000b","quantity":7}`, event("h25"), "", "sku: contains a NUL character"},
		"payload that is not UTF-8":      {[]byte("k26"), "{\"sku\":\"\xff\",\"quantity\":7}", event("h26"), "", "payload: is not valid UTF-8"},
		"SKU of 6,000 characters":        {[]byte("k27"), arrived(strings.Repeat("S", 6000)), event("h27"), "", "key of ReceiveStock: has 6000 bytes"},
		"null":                           {[]byte("k28"), `null`, event("h28"), "", "is null"},
		"refused: negative quantity":     {[]byte("k29"), `{"sku":"H-NEGATIVE","quantity":-5}`, event("h29"), "", "a quantity is at least 1"},
		"refused: wrong field names":     {[]byte("k30"), `{"article":"H-NAMES","amount":7}`, event("h30"), "", "a stock needs a SKU"},
		"binary key of a dead letter":    {[]byte{0, 0xff, 1}, `{"sku":7}`, event("h31"), "", "decode delivery.arrived"},
		"no id, no type":                 {[]byte("k32"), "\x00\xff", nil, "", "no header ce_id"},
	}
	var all []*sarama.ProducerMessage
	for name, r := range records {
		all = append(all, external(topic, 0, r.key, r.payload, append(r.headers, "x-test", name)...))
	}
	all = append(all, external(topic, 0, []byte("k40"), "", "x-test", "tombstone"), external(topic, 0, []byte("k40"), arrived("H-AFTER-TOMBSTONE"), event("h40")...))
	all = append(all, external(topic, 0, []byte("k41"), `{}`, "ce_id", strings.Repeat("x", 6000), "ce_type", "of.no.interest"))
	all = append(all, external(topic, 0, []byte("last"), arrived("H-LAST"), event("last")...))
	kittest.Eventually(t, func() error { // the topic was made just now
		_, _, err := p.SendMessage(external(topic, 0, []byte("first"), arrived("H-FIRST"), event("first")...))
		return err
	})
	require.NoError(t, p.SendMessages(all))

	for _, sku := range []string{"H-FIRST", "H-LAST", "H-AFTER-TOMBSTONE"} {
		eventuallyOnHand(t, i, sku, 7)
	}
	for name, r := range records {
		if r.handled != "" {
			t.Log(name)
			eventuallyOnHand(t, i, r.handled, 7)
		}
	}
	wanted := 0
	for name, r := range records {
		if r.reason == "" {
			continue
		}
		wanted++
		kittest.Eventually(t, func() error {
			for _, l := range deadLetters(t, i) {
				if strings.Contains(l.Reason, r.reason) && (l.Headers["x-test"] == name || strings.HasPrefix(name, "refused: ") && strings.HasSuffix(l.Topic, "commands.inventory")) {
					return nil
				}
			}
			return fmt.Errorf("%s: no dead letter that says %q among %d", name, r.reason, len(deadLetters(t, i)))
		})
	}
	found := deadLetters(t, i)
	require.Len(t, found, wanted, "%v", found)
	tombstones, err := metric(t, i, `millrace_messages_failed_total{consumer="`+i.Topic("reaction.deliveries")+`",then="tombstone"}`)
	require.NoError(t, err)
	require.InDelta(t, 1, tombstones, 0)

	// Any of them can be shown, replayed and dropped.
	for _, l := range found {
		output, code := run(t, nil, "deadletters", "show", l.ID, "--url", i.URL)
		require.Zero(t, code, output)
		require.NotContains(t, output, "\x00")
	}
	output, code := run(t, nil, "deadletters", "replay", "--all", "--url", i.URL)
	require.Zero(t, code, output)
	kittest.Eventually(t, func() error { // each is dead again, for the same reason
		if n := len(deadLetters(t, i)); n != wanted {
			return fmt.Errorf("%d dead letters, not %d", n, wanted)
		}
		return nil
	})
	for _, l := range deadLetters(t, i) {
		output, code := run(t, nil, "deadletters", "drop", l.ID, "--reason", "hostile", "--url", i.URL)
		require.Zero(t, code, output)
	}
	db := kittest.OpenDB(t, i.DSN())
	require.Equal(t, []string{"0", "0"}, kittest.Column(t, db, `SELECT count(*)::text FROM blocked_keys UNION ALL SELECT count(*)::text FROM waiting_messages`))
	i.Consistent()
}

// A command that a saga sent and whose handler records no event is answered on the event topic.
func TestCommandWithoutAnEventIsAnswered(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(10, "MUG-01")
	order := i.Decided(i.Place("pm_ok", "MUG-01"))
	require.Equal(t, "confirmed", order.Status)
	_, _, err := producer(t, i).SendMessage(external(i.Topic("commands.orders"), 0, []byte(order.ID), fmt.Sprintf(`{"order_id":%q}`, order.ID),
		"ce_id", "again", "ce_type", "ConfirmOrder", "ce_partitionkey", order.ID, "millrace_saga_id", "another saga", "millrace_saga_step", "confirm order", "millrace_saga_branch", "do"))
	require.NoError(t, err)
	kittest.Eventually(t, func() error {
		var answers []string
		err := kafka.ReadAll(t.Context(), kafka.Config{Brokers: i.Brokers()}, []string{i.Topic("events.orders")}, func(_ string, msg *message.Message) error {
			if msg.Metadata["causation_id"] == "again" {
				answers = append(answers, msg.Metadata["ce_type"]+" "+msg.Metadata["millrace_saga_id"])
			}
			return nil
		})
		if err == nil && (len(answers) != 1 || answers[0] != "saga.processed another saga") {
			err = fmt.Errorf("%v", answers)
		}
		return err
	})
	i.Consistent()
}

// What another service says is retried from the database: its topic, which may be read-only, gets no record of ours, whether a message is
// retried, waits behind another one or is replayed; and the order of its key is kept.
func TestRetryWritesNothingIntoAnExternalTopic(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	topic := i.Topic("warehouse.events.deliveries")
	client, err := sarama.NewClient(i.Brokers(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	records := func() (n int64) {
		partitions, err := client.Partitions(topic)
		require.NoError(t, err)
		for _, partition := range partitions {
			end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
			require.NoError(t, err)
			n += end
		}
		return n
	}
	db := kittest.OpenDB(t, i.DSN())
	_, err = db.Exec(`
		CREATE FUNCTION fail_sending() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken on purpose' USING ERRCODE = 'MR001'; END $$;
		CREATE TRIGGER fail_sending BEFORE INSERT ON outbox FOR EACH ROW WHEN (NEW.key = 'BAD') EXECUTE FUNCTION fail_sending()`)
	require.NoError(t, err)
	p := onPartition(t, i)
	binary := []byte{0, 0, 0, 0, 0, 0, 0, 0xff}
	send := func(key []byte, id, sku string, quantity int) {
		kittest.Eventually(t, func() error {
			_, _, err := p.SendMessage(external(topic, 0, key, fmt.Sprintf(`{"sku":%q,"quantity":%d,"pad":%q}`, sku, quantity, strings.Repeat("compressible ", 100_000)),
				"ce_id", id, "ce_type", "delivery.arrived", "ce_source", "/warehouse"))
			return err
		})
	}
	for n := range 4 {
		send(binary, fmt.Sprint("r", n), "BAD", 1<<n)
	}
	send([]byte{0, 0, 0, 0, 0, 0, 0, 1}, "good", "GOOD", 7)
	before := records()
	eventuallyOnHand(t, i, "GOOD", 7)
	var dead deadLetter
	kittest.Eventually(t, func() error {
		for _, l := range deadLetters(t, i) {
			dead = l
			return nil
		}
		return fmt.Errorf("no dead letter")
	})
	require.Contains(t, dead.Reason, "broken on purpose")
	require.Equal(t, `\x00\x00\x00\x00\x00\x00\x00\xff`, dead.Key)
	require.Greater(t, dead.Attempts, 3)
	_, err = db.Exec(`DROP TRIGGER fail_sending ON outbox`)
	require.NoError(t, err)
	output, code := run(t, nil, "deadletters", "redrive", dead.ID, "--url", i.URL)
	require.Zero(t, code, output)
	eventuallyOnHand(t, i, "BAD", 15)
	order := kittest.Column(t, db, `SELECT payload->>'quantity' FROM events WHERE stream = 'inventory/BAD' ORDER BY version`)
	require.Equal(t, []string{"1", "2", "4", "8"}, order)
	require.Equal(t, before, records(), "nothing was written into the topic")
	require.Empty(t, deadLetters(t, i))
}
