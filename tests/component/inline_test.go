package component

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// Sagas receive answers in the unit of work that records them, and the messages say so. If they did not, as those of an instance of an
// earlier version, nothing would happen twice.
func TestSagasReceiveAnswersInline(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01", "HEAVY-99")
	for _, method := range []string{"pm_ok", "pm_declined", "pm_capture_refused"} {
		i.Decided(i.Place(method, "MUG-01"))
	}
	i.Decided(i.Place("pm_ok", "HEAVY-99"))
	inline := map[string]int{}
	var unmarked []*sarama.ProducerMessage
	topics := []string{i.Topic("events.orders"), i.Topic("events.inventory"), i.Topic("events.payments"), i.Topic("events.shipments")}
	require.NoError(t, kafka.ReadAll(context.Background(), kafka.Config{Brokers: i.Brokers()}, topics, func(topic string, msg *message.Message) error {
		names := strings.Split(msg.Metadata[cqrs.HeaderHandledBy], ",")
		if names[0] == "" {
			return nil
		}
		require.Equal(t, []string{"order-fulfilment"}, names, topic)
		inline[topic]++
		record := &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(msg.Metadata[cqrs.HeaderKey]), Value: sarama.ByteEncoder(msg.Payload)}
		for name, value := range msg.Metadata {
			if name != cqrs.HeaderHandledBy {
				record.Headers = append(record.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
			}
		}
		unmarked = append(unmarked, record)
		return nil
	}))
	t.Logf("events that were handled inline: %v", inline)
	for _, topic := range topics {
		require.Positive(t, inline[topic], topic)
	}
	sagas := kittest.OpenDB(t, i.DSN())
	recorded := func() (n int) {
		require.NoError(t, sagas.QueryRow(`SELECT count(*) FROM events WHERE stream LIKE 'sagas/%'`).Scan(&n))
		return n
	}
	n := recorded()
	i.Decided(i.Place("pm_ok", "VOID-00"))
	each, before := recorded()-n, i.Consistent()
	require.NoError(t, producer(t, i).SendMessages(unmarked))
	for range 40 { // those that come after them in every partition
		i.Decided(i.Place("pm_ok", "VOID-00"))
	}
	require.Equal(t, before.Orders+40, i.Consistent().Orders)
	require.Equal(t, n+41*each, recorded())
}

// An order is four transactions if nothing else of its keys is on its way: it is placed, and stock is reserved; the payment is authorised; the parcel is booked; the
// payment is captured, stock is taken out, and the order is confirmed. Without local delivery each step is one or two of its own, with the same result.
func TestOrderIsFourTransactions(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	for delivery, least := range map[string]int{"on": 4, "off": 14} {
		i := harness.NewEnvironment(t).Start("LOCAL_DELIVERY=" + delivery)
		i.Stock(1000, "MUG-01")
		db := kittest.OpenDB(t, i.DSN())
		transactions := 0
		kittest.Eventually(t, func() error {
			id := i.Place("pm_ok", "MUG-01")
			require.Equal(t, "confirmed", i.Decided(id).Status)
			require.NoError(t, db.QueryRow(`SELECT count(DISTINCT xmin::text) FROM events WHERE stream LIKE '%' || $1 OR payload::text LIKE '%' || $1 || '%'
				OR stream IN (SELECT stream FROM events WHERE stream LIKE 'sagas/%' AND payload::text LIKE '%' || $1 || '%')`, id).Scan(&transactions))
			if transactions != least {
				return fmt.Errorf("an order is %d transactions, LOCAL_DELIVERY=%s", transactions, delivery)
			}
			return nil
		})
		i.Consistent()
	}
}
