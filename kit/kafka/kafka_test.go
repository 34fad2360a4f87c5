package kafka_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
)

func config(t *testing.T) kafka.Config {
	t.Helper()
	if brokers := os.Getenv("KAFKA_BROKERS"); brokers != "" {
		return kafka.Config{Brokers: strings.Split(brokers, ","), ClientID: "test"}
	}
	broker, err := embedded.StartKafka(t.TempDir(), 0)
	require.NoError(t, err)
	t.Cleanup(broker.Stop)
	return kafka.Config{Brokers: broker.Brokers, ClientID: "test"}
}

func topic(t *testing.T, c kafka.Config) string {
	t.Helper()
	name := "test." + uuid.NewString()
	limits, err := kafka.EnsureTopics(t.Context(), c, []string{name}, 4)
	require.NoError(t, err)
	require.Equal(t, kafka.DefaultLimit, limits.Bytes)
	return name
}

// MissingTopics creates no topic.
func TestMissingTopics(t *testing.T) {
	c := config(t)
	exists, missing := topic(t, c), "test."+uuid.NewString()
	for range 2 {
		found, err := kafka.MissingTopics(c, []string{exists, missing})
		require.NoError(t, err)
		require.Equal(t, []string{missing}, found)
	}
}

// A subscriber that is closed repeatedly while messages are in flight finishes these messages, and no message is delivered twice.
func TestStopFinishesMessagesInFlight(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	const messages = 300
	produce(t, c, name, messages, 10)
	var mu sync.Mutex
	handled, torn := map[string]int{}, 0
	for round := 0; ; round++ {
		require.Less(t, round, 40)
		s, err := kafka.NewSubscriber(c, name, kafka.SubscriberOptions{}, watermill.NopLogger{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		out, err := s.Subscribe(ctx, name)
		require.NoError(t, err)
		stopAfter := time.After(1500 * time.Millisecond)
		closed := make(chan error, 1)
		var working sync.WaitGroup
		for open := true; open; {
			select {
			case msg, ok := <-out:
				if open = ok; !ok {
					break
				}
				working.Go(func() { // as the router does
					time.Sleep(10 * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					handled[msg.UUID]++
					if msg.Context().Err() != nil {
						torn++
					}
					msg.Ack()
				})
			case <-stopAfter:
				if round%2 == 0 { // the router cancels the context first, then calls Close
					cancel()
				}
				go func() { closed <- s.Close() }()
			}
		}
		working.Wait()
		require.NoError(t, <-closed)
		cancel()
		mu.Lock()
		done := len(handled) == messages
		mu.Unlock()
		if done {
			break
		}
	}
	for id, n := range handled {
		require.Equal(t, 1, n, id)
	}
	require.Zero(t, torn)
}

// Subscribe waits for a broker that is unavailable at the start.
func TestSubscribeWaitsForAnUnavailableBroker(t *testing.T) {
	dir := t.TempDir()
	broker, err := embedded.StartKafka(dir, 0)
	require.NoError(t, err)
	c := kafka.Config{Brokers: broker.Brokers, ClientID: "test"}
	name := topic(t, c)
	var port int
	_, err = fmt.Sscanf(broker.Brokers[0], "127.0.0.1:%d", &port)
	require.NoError(t, err)
	broker.Stop()

	require.Error(t, kafka.Ping(t.Context(), c))
	s, err := kafka.NewSubscriber(c, name, kafka.SubscriberOptions{}, watermill.NopLogger{})
	require.NoError(t, err)
	out, err := s.Subscribe(t.Context(), name)
	require.NoError(t, err)
	p := kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now)
	defer p.Close()
	send := func() error {
		return p.Send(t.Context(), []string{name}, []*message.Message{message.NewMessage("m", []byte("hello"))})[0]
	}
	err = send()
	require.Error(t, err)
	require.False(t, kafka.Refused(err), "it passes")

	broker, err = embedded.StartKafka(dir, port)
	require.NoError(t, err)
	defer broker.Stop()
	require.Eventually(t, func() bool { return send() == nil }, 20*time.Second, 100*time.Millisecond)
	msg := <-out
	require.Equal(t, "hello", string(msg.Payload))
	msg.Ack()
	require.NoError(t, s.Close())
	require.NoError(t, kafka.Ping(t.Context(), c))
}

func TestRecordWithoutHeadersIsDelivered(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	s := sarama.NewConfig()
	s.Producer.Return.Successes = true
	p, err := sarama.NewSyncProducer(c.Brokers, s)
	require.NoError(t, err)
	defer p.Close()
	partition, offset, err := p.SendMessage(&sarama.ProducerMessage{Topic: name, Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder("\xff")})
	require.NoError(t, err)
	var got []*message.Message
	require.NoError(t, kafka.ReadAll(t.Context(), c, []string{name}, func(_ string, msg *message.Message) error {
		got = append(got, msg)
		return nil
	}))
	require.Len(t, got, 1)
	require.Regexp(t, fmt.Sprintf(`^%s/%d/%d/\d+/[0-9a-f]{16}$`, name, partition, offset), got[0].UUID, "its place, its time and its content: a topic that is created again has another record there")
	require.Equal(t, "k", got[0].Metadata[cqrs.HeaderKey])
	require.Empty(t, got[0].Metadata[cqrs.HeaderID])
}

func TestTopicsAreLeftAsTheyAre(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	_, err := kafka.EnsureTopics(t.Context(), c, []string{name}, 12)
	require.NoError(t, err)
	client, err := sarama.NewClient(c.Brokers, sarama.NewConfig())
	require.NoError(t, err)
	defer client.Close()
	partitions, err := client.Partitions(name)
	require.NoError(t, err)
	require.Len(t, partitions, 4)
}

// A recreated topic has another record at the same offset. If that record has no id, it must not get the id of the earlier record.
func TestARecordWithoutAnIDIsNotTheOneOfAnEarlierTopic(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	s := sarama.NewConfig()
	s.Producer.Return.Successes = true
	admin, err := sarama.NewClusterAdmin(c.Brokers, s)
	require.NoError(t, err)
	defer admin.Close()
	ids := map[string]bool{}
	for _, value := range []string{"first", "second"} {
		p, err := sarama.NewSyncProducer(c.Brokers, s)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, offset, err := p.SendMessage(&sarama.ProducerMessage{Topic: name, Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder(value)})
			return err == nil && offset == 0
		}, 30*time.Second, 200*time.Millisecond)
		require.NoError(t, p.Close())
		require.NoError(t, kafka.ReadAll(t.Context(), c, []string{name}, func(_ string, msg *message.Message) error {
			ids[msg.UUID] = true
			return nil
		}))
		if value == "first" {
			require.NoError(t, admin.DeleteTopic(name))
			require.Eventually(t, func() bool {
				_, err := kafka.EnsureTopics(t.Context(), c, []string{name}, 4)
				return err == nil
			}, 30*time.Second, 200*time.Millisecond)
		}
	}
	require.Len(t, ids, 2)
}
