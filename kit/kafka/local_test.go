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

// A topic is recreated after its end offsets were requested, and before the first session of its subscriber. The offsets of the former, longer topic
// do not prevent local delivery.
func TestTopicMadeAgainBeforeTheFirstSession(t *testing.T) {
	t.Parallel()
	c := config(t)
	name := topic(t, c)
	s, err := kafka.NewSubscriber(c, name, kafka.SubscriberOptions{}, watermill.NopLogger{})
	require.NoError(t, err)
	p := kafka.NewLocalProducer(kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now), func() map[string]*keyordered.Subscriber { return map[string]*keyordered.Subscriber{name: s} })
	defer p.Close()
	produce(t, c, name, 40, 40)
	p.Forget() // as when a relay acquires leases
	require.Eventually(t, p.Ready, 60*time.Second, 10*time.Millisecond)

	recreate(t, c, name)
	out, err := s.Subscribe(t.Context(), name)
	require.NoError(t, err)
	defer s.Close()
	go func() {
		for msg := range out {
			msg.Ack()
		}
	}()
	require.Eventually(t, func() bool { return p.Offer(name, keyedMessage("new"), false, func(bool) {}) }, 60*time.Second, 100*time.Millisecond, "never handed over")
}

// Offer refuses messages soon while Kafka is unavailable, and for a topic that does not exist. Otherwise the relay would wait for each key in turn,
// even when it stops.
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
