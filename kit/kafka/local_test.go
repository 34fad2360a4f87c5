package kafka_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kafka/keyordered"
)

func keyedMessage(key string) *message.Message {
	msg := message.NewMessage(key, []byte("x"))
	msg.Metadata[cqrs.HeaderID], msg.Metadata[cqrs.HeaderKey] = msg.UUID, key
	return msg
}

// What is offered while Kafka is unavailable, or to a topic that does not exist, is refused soon: the relay would wait for each key in turn, also
// when it stops.
func TestOfferDoesNotWaitForKafka(t *testing.T) {
	broker, err := embedded.StartKafka(t.TempDir(), 0)
	require.NoError(t, err)
	t.Cleanup(broker.Stop)
	c := kafka.Config{Brokers: broker.Brokers, ClientID: "test"}
	name := topic(t, c)
	s, err := kafka.NewSubscriber(c, name, kafka.SubscriberOptions{}, watermill.NopLogger{})
	require.NoError(t, err)
	p := kafka.NewLocalProducer(kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now), func() map[string]*keyordered.Subscriber { return map[string]*keyordered.Subscriber{name: s} })
	defer p.Close()
	require.NoError(t, p.Send(context.Background(), []string{name}, []*message.Message{keyedMessage("k")})[0])
	offer := func(topic string) {
		t.Helper()
		began := time.Now()
		for i := range 40 {
			require.False(t, p.Offer(topic, keyedMessage(fmt.Sprint("k", i)), false, func(bool) {}))
		}
		require.Less(t, time.Since(began), 5*time.Second)
	}
	offer("missing")
	offer(name)
	broker.Stop()
	p.Forget()
	offer(name)
}
