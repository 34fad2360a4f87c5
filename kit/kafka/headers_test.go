package kafka

import (
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

func record(key string, pairs ...string) *sarama.ConsumerMessage {
	r := &sarama.ConsumerMessage{Topic: "topic", Key: []byte(key)}
	for n := 0; n+1 < len(pairs); n += 2 {
		r.Headers = append(r.Headers, &sarama.RecordHeader{Key: []byte(pairs[n]), Value: []byte(pairs[n+1])})
	}
	return r
}

// A saga's consumer orders by saga: by the current header, by its former name, and by the header that Debezium makes of either.
func TestOrderKeyOfASaga(t *testing.T) {
	for want, r := range map[string]*sarama.ConsumerMessage{
		"today":    record("key", cqrs.HeaderSagaID, "today"),
		"former":   record("key", "saga_id", "former"),
		"debezium": record("key", "id", "x", "millrace_headers", `{"ce_id":"1","millrace_saga_id":"debezium"}`),
		"older":    record("key", "headers", `{"ce_id":"1","saga_id":"older"}`),
		"key":      record("key", "ce_id", "1", "headers", `{"ce_id":"1","saga_id":"a stranger's header"}`),
		"other":    record("other"),
	} {
		require.Equal(t, want, orderKey(r, cqrs.HeaderSagaID))
		require.Equal(t, string(r.Key), orderKey(r, ""))
	}
}

// A header with the name headers belongs to another service, unless the record has no other headers.
func TestReservedHeaderOfAnUnknownProducer(t *testing.T) {
	require.Equal(t, "1", headersOf(record("k", "ce_id", "1", "headers", `{"ce_id":"2"}`))[cqrs.HeaderID])
	require.JSONEq(t, `{"ce_id":"2"}`, headersOf(record("k", "ce_id", "1", "headers", `{"ce_id":"2"}`))["headers"])
	require.Equal(t, "2", headersOf(record("k", "headers", `{"ce_id":"2"}`))[cqrs.HeaderID])
	require.Equal(t, "no JSON", headersOf(record("k", "headers", "no JSON"))["headers"])
	msg, err := CloudEvents{}.Unmarshal(record("\x00\xff", "ce_id", "1", "ce_partitionkey", "another"))
	require.NoError(t, err)
	require.Equal(t, "\x00\xff", msg.Metadata[cqrs.HeaderKey], "the record's key is what Kafka keeps the order by")
}
