package kafka_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kafka/keyordered"
	"github.com/millrace/millrace/kit/kittest"
)

// A member that cannot reach Kafka keeps its partitions, handles the records that it has received, and accepts offered messages, in the order of each
// key, even for longer than its session timeout. A message is not offered if it is unknown whether the previous message of its key was sent, until
// Kafka is available again. Then the member joins its group again.
func TestMemberKeepsItsPartitionsWhileKafkaIsAway(t *testing.T) {
	kittest.Long(t)
	dir := t.TempDir()
	broker, err := embedded.StartKafka(dir, 0)
	require.NoError(t, err)
	t.Cleanup(func() { broker.Stop() })
	port, err := strconv.Atoi(broker.Brokers[0][strings.LastIndex(broker.Brokers[0], ":")+1:])
	require.NoError(t, err)
	c := kafka.Config{Brokers: broker.Brokers, ClientID: "test", Instance: "one"}
	name := topic(t, c)
	s, err := kafka.NewSubscriber(c, name, kafka.SubscriberOptions{KeepOffline: func() bool { return true }}, watermill.NopLogger{})
	require.NoError(t, err)
	out, err := s.Subscribe(t.Context(), name)
	require.NoError(t, err)
	defer s.Close()
	var mu sync.Mutex
	handled := map[string][]string{}
	slow := make(chan struct{})
	go func() {
		for msg := range out {
			go func() {
				key := msg.Metadata[cqrs.HeaderKey]
				if key == "slow" && string(msg.Payload) == "1" {
					<-slow
				}
				mu.Lock()
				defer mu.Unlock()
				if text := string(msg.Payload); !slices.Contains(handled[key], text) { // as the inbox rejects duplicates
					handled[key] = append(handled[key], text)
				}
				msg.Ack()
			}()
		}
	}()
	text := func(key, text string) *message.Message {
		msg := keyedMessage(key)
		msg.Payload = []byte(text)
		return msg
	}
	p := kafka.NewLocalProducer(kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now), func() map[string]*keyordered.Subscriber { return map[string]*keyordered.Subscriber{name: s} })
	defer p.Close()
	send := func(key, payload string) error {
		return p.Send(context.Background(), []string{name}, []*message.Message{text(key, payload)})[0]
	}
	offer := func(key, payload string, more bool) bool {
		return p.Offer(name, text(key, payload), more, func(bool) {})
	}
	takes := func(key, payload string) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if !offer(key, payload, false) {
				return fmt.Errorf("%s of %s is not taken", payload, key)
			}
			return nil
		})
	}
	for i := range 40 { // keys of all partitions
		require.NoError(t, send(fmt.Sprint("k", i), "1"))
	}
	require.NoError(t, send("slow", "1"))
	require.NoError(t, send("slow", "2"))
	for i := range 40 {
		takes(fmt.Sprint("k", i), "2")
	}
	takes("slow", "3")

	broker.Stop()
	for second := range 9 {
		for i := range 40 {
			require.True(t, offer(fmt.Sprint("k", i), strconv.Itoa(3+second), false), "k%d in second %d", i, second)
		}
		time.Sleep(time.Second)
	}
	require.Error(t, send("k0", "12"))
	require.False(t, offer("k0", "12", false), "it may have been sent")
	require.True(t, offer("k1", "12", false))
	close(slow)
	wait := func(key string, texts ...string) {
		t.Helper()
		kittest.Eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(handled[key]) != fmt.Sprint(texts) {
				return fmt.Errorf("%s: %v", key, handled[key])
			}
			return nil
		})
	}
	wait("slow", "1", "2", "3")
	wait("k0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
	wait("k1", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")

	broker, err = embedded.StartKafka(dir, port)
	require.NoError(t, err)
	kittest.Eventually(t, func() error { return send("k0", "12") })
	wait("k0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
	takes("k0", "13")
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < 40; i++ {
		require.Len(t, handled[fmt.Sprint("k", i)], 11+max(0, 2-i), "k%d: %v", i, handled)
	}
}
