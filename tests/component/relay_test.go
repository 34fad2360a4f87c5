package component

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"testing"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/tests/harness"
)

// The broker refuses a message of the outbox: it becomes a dead letter, and its key is suspended, and no other. When an operator drops the
// dead letter, the relay sends the messages behind it, in their order.
func TestRelayGoesOnAfterADropOfTheDeadLetter(t *testing.T) {
	if !kittest.Real() {
		t.Skip("needs a real Kafka, which refuses records: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t, "LOCAL_DELIVERY=off").Start() // the broker sees no command that is handed over
	topic, limit := i.Topic("commands.inventory"), "100000"
	require.NoError(t, admin(t, i).AlterConfig(sarama.TopicResource, topic, map[string]*string{"max.message.bytes": &limit}, false))
	db := kittest.OpenDB(t, i.DSN())
	receive := func(sku string, quantity, pad int) {
		random := make([]byte, pad/2)
		_, _ = rand.Read(random) // it never fails
		id := uuid.NewString()
		_, err := db.Exec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) SELECT $1, $2, $3, $4, $5::text::bytea, json_build_object(
			'ce_id', $1::text, 'ce_type', 'ReceiveStock', 'ce_partitionkey', $3::text, 'ce_source', '/test', 'ce_time', '2026-01-02T03:04:05Z')`,
			id, topic, sku, outbox.ShardOf(topic, sku), fmt.Sprintf(`{"sku":%q,"quantity":%d,"pad":%q}`, sku, quantity, hex.EncodeToString(random)))
		require.NoError(t, err)
	}
	receive("BAD", 1, 300_000)
	for _, quantity := range []int{2, 4} {
		receive("BAD", quantity, 0)
	}
	receive("GOOD", 7, 0)
	eventuallyOnHand(t, i, "GOOD", 7)
	dead := findDeadLetter(t, i, "ReceiveStock")
	require.Equal(t, []string{"relay", "BAD"}, []string{dead.Consumer, dead.Key})
	blocked := func() (n struct{ Pending, Parked int }) {
		i.Do(http.MethodGet, "/v1/outbox", "").JSON(t, &n)
		return n
	}
	kittest.Eventually(t, func() error {
		if n := blocked(); n.Parked != 2 || n.Pending != 0 {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	require.Equal(t, int64(-1), onHand(t, i, "BAD"))
	output, code := run(t, nil, "deadletters", "drop", dead.ID, "--reason", "too large", "--url", i.URL)
	require.Zero(t, code, output)
	eventuallyOnHand(t, i, "BAD", 6)
	order := kittest.Column(t, db, `SELECT payload->>'quantity' FROM events WHERE stream = 'inventory/BAD' ORDER BY version`)
	require.Equal(t, []string{"2", "4"}, order)
	require.Empty(t, deadLetters(t, i))
	receive("BAD", 8, 0) // the key is free for good
	eventuallyOnHand(t, i, "BAD", 14)
	require.Zero(t, blocked().Parked)
	i.Consistent()
}
