package kafka_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kafka/keyordered"
	"github.com/millrace/millrace/kit/kittest"
)

// produce sends messages, numbered from 0, with the producer. The messages have some keys in turn.
func produce(t *testing.T, c kafka.Config, topic string, n, keys int) {
	t.Helper()
	produceFrom(t, c, topic, 0, n, keys)
}

func produceFrom(t *testing.T, c kafka.Config, topic string, first, n, keys int) {
	t.Helper()
	p := kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now)
	defer p.Close()
	for from := first; from < n; from += 500 {
		var topics []string
		var messages []*message.Message
		for i := from; i < min(from+500, n); i++ {
			msg := message.NewMessage(fmt.Sprint("m-", i), []byte(strconv.Itoa(i)))
			msg.Metadata = message.Metadata{cqrs.HeaderID: msg.UUID, cqrs.HeaderKey: fmt.Sprint("key-", i%keys)}
			topics, messages = append(topics, topic), append(messages, msg)
		}
		for tries := 0; len(messages) > 0; tries++ { // a broker that was just started is not ready at once
			require.Less(t, tries, 100)
			var again []*message.Message
			for i, err := range p.Send(context.Background(), topics[:len(messages)], messages) {
				if err != nil {
					again = append(again, messages[i])
				}
			}
			if messages = again; len(again) > 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
}

// Members join and leave while many messages of each partition are in flight. Each message is handled, the messages of a key are handled in order,
// and redelivered messages are in order too.
func TestKeysKeepTheirOrderWhileMembersComeAndGo(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	const messages, keys = 6000, 40
	produce(t, c, name, messages, keys)
	var mu sync.Mutex
	highest, seen, atOnce, most, again := map[string]int{}, map[int]bool{}, 0, 0, 0
	member := func() (stop func()) {
		s, err := kafka.NewSubscriber(c, name, kafka.SubscriberOptions{}, watermill.NopLogger{})
		require.NoError(t, err)
		out, err := s.Subscribe(context.Background(), name)
		require.NoError(t, err)
		go func() {
			for msg := range out {
				go func() {
					key := msg.Metadata[cqrs.HeaderKey]
					n, _ := strconv.Atoi(string(msg.Payload))
					mu.Lock()
					atOnce++
					most = max(most, atOnce)
					if n > highest[key]+keys && highest[key] > 0 {
						t.Errorf("%s: %d after %d", key, n, highest[key])
					}
					mu.Unlock()
					time.Sleep(time.Duration(5+rand.IntN(20)) * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					atOnce--
					if seen[n] {
						again++
					}
					seen[n] = true
					highest[key] = max(highest[key], n)
					msg.Ack()
				}()
			}
		}()
		return func() { require.NoError(t, s.Close()) }
	}
	done := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == messages
	}
	stopFirst := member()
	time.Sleep(2 * time.Second)
	stopSecond := member()
	time.Sleep(2 * time.Second)
	stopFirst()
	require.Eventually(t, done, 60*time.Second, 50*time.Millisecond)
	stopSecond()
	require.Greater(t, most, 8, "more than one a partition")
	t.Logf("at most %d in flight, %d redelivered", most, again)
}

// The producer chooses the same partition for a key as Watermill's publisher, and refuses only the message that is too large.
func TestProducerRecords(t *testing.T) {
	c := config(t)
	ours, theirs := topic(t, c), topic(t, c)
	produce(t, c, ours, 200, 10)
	marshaler := wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) { return msg.Metadata[cqrs.HeaderKey], nil })
	watermills, err := wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: c.Brokers, Marshaler: marshaler}, watermill.NopLogger{})
	require.NoError(t, err)
	defer watermills.Close()
	for i := range 200 {
		msg := message.NewMessage(fmt.Sprint("m-", i), []byte("x"))
		msg.Metadata[cqrs.HeaderKey] = fmt.Sprint("key-", i%10)
		require.NoError(t, watermills.Publish(theirs, msg))
	}
	places := func(topic string) map[string]int32 {
		consumer, err := sarama.NewConsumer(c.Brokers, sarama.NewConfig())
		require.NoError(t, err)
		defer consumer.Close()
		out := map[string]int32{}
		for n := range int32(4) {
			p, err := consumer.ConsumePartition(topic, n, sarama.OffsetOldest)
			require.NoError(t, err)
			for open := true; open; {
				select {
				case r := <-p.Messages():
					out[string(r.Key)] = n
				case <-time.After(500 * time.Millisecond):
					open = false
				}
			}
			p.AsyncClose()
		}
		return out
	}
	require.Equal(t, places(theirs), places(ours))

	p := kafka.NewProducer(c, func() int { return 2000 }, time.Now)
	defer p.Close()
	messageOf := func(key string, size int) *message.Message {
		msg := message.NewMessage("m", make([]byte, size))
		msg.Metadata = message.Metadata{cqrs.HeaderKey: key}
		return msg
	}
	var topics []string
	var messages []*message.Message
	for range 40 { // more than one batch holds
		topics, messages = append(topics, ours), append(messages, messageOf("key-1", 500))
	}
	for _, err := range p.Send(context.Background(), topics, messages) {
		require.NoError(t, err)
	}
	errs := p.Send(context.Background(), []string{ours, ours, ours}, []*message.Message{messageOf("key-1", 1), messageOf("key-1", 3000), messageOf("key-1", 1)})
	require.NoError(t, errs[0])
	require.True(t, kafka.Refused(errs[1]))
	require.Error(t, errs[2], "it must not pass the one before it")
	errs = p.Send(context.Background(), []string{"no.such.topic\x00"}, []*message.Message{messageOf("k", 1)})
	require.Error(t, errs[0])
}

// recreate deletes a topic and creates it again.
func recreate(t *testing.T, c kafka.Config, name string) {
	t.Helper()
	admin, err := kafka.NewAdmin(c)
	require.NoError(t, err)
	defer admin.Close()
	require.NoError(t, admin.DeleteTopic(name))
	require.Eventually(t, func() bool {
		return admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: 4, ReplicationFactor: 1}, false) == nil
	}, 60*time.Second, 20*time.Millisecond)
}

// TestRecreatedTopicIsReadFromItsBeginning deletes and recreates a topic that is consumed, with more records than the old topic had. No member
// continues at an offset of the old topic: every record is handled.
func TestRecreatedTopicIsReadFromItsBeginning(t *testing.T) {
	t.Parallel()
	soon, late := 100*time.Millisecond, 4*time.Second
	for name, c := range map[string]struct {
		checks []time.Duration // how often each member checks its topic
		down   bool            // no member runs while the topic is recreated
	}{
		"one member":                              {checks: []time.Duration{soon}},
		"two members":                             {checks: []time.Duration{soon, soon}},
		"two members, one of which notices late":  {checks: []time.Duration{late, soon}},
		"three members, two of which notice late": {checks: []time.Duration{late, late, soon}},
		"the group is down":                       {checks: []time.Duration{soon, soon}, down: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := config(t)
			name := topic(t, cluster)
			produce(t, cluster, name, 200, 20)
			var mu sync.Mutex
			seen := map[string]bool{}
			handled := func(n int) func() bool {
				return func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(seen) == n
				}
			}
			start := func() (stop func()) {
				var members []*keyordered.Subscriber
				for _, every := range c.checks {
					s, err := keyordered.NewSubscriber(keyordered.Config{
						Brokers: cluster.Brokers, Group: name, Unmarshaler: kafka.CloudEvents{}, CheckTopicEvery: every,
					})
					require.NoError(t, err)
					out, err := s.Subscribe(context.Background(), name)
					require.NoError(t, err)
					go func() {
						for msg := range out {
							mu.Lock()
							seen[msg.UUID] = true
							mu.Unlock()
							msg.Ack()
						}
					}()
					members = append(members, s)
				}
				return func() {
					for _, s := range members {
						require.NoError(t, s.Close())
					}
				}
			}
			stop := start()
			require.Eventually(t, handled(200), 60*time.Second, 50*time.Millisecond)
			time.Sleep(3 * time.Second) // all members have joined and committed their offsets, which they do every second
			if c.down {
				stop()
			}
			mu.Lock()
			clear(seen)
			mu.Unlock()

			recreate(t, cluster, name)
			produce(t, cluster, name, 2000, 20)
			if c.down {
				stop = start()
			}
			require.Eventually(t, handled(2000), 60*time.Second, 50*time.Millisecond)
			stop()
		})
	}
}

// TestAddedPartitionsAreRead adds partitions to a topic that is consumed by members that check it at different times. Records of the new partitions
// are handled soon and once each. Sarama alone would read them only after its next refresh of the metadata, ten minutes later by default.
func TestAddedPartitionsAreRead(t *testing.T) {
	t.Parallel()
	cluster := config(t)
	name := topic(t, cluster)
	produce(t, cluster, name, 200, 20)
	var mu sync.Mutex
	seen := map[string]int{}
	handled := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	for _, every := range []time.Duration{4 * time.Second, 100 * time.Millisecond} {
		s, err := keyordered.NewSubscriber(keyordered.Config{Brokers: cluster.Brokers, Group: name, Unmarshaler: kafka.CloudEvents{}, CheckTopicEvery: every})
		require.NoError(t, err)
		out, err := s.Subscribe(t.Context(), name)
		require.NoError(t, err)
		go func() {
			for msg := range out {
				mu.Lock()
				seen[msg.UUID]++
				mu.Unlock()
				msg.Ack()
			}
		}()
		t.Cleanup(func() { require.NoError(t, s.Close()) })
	}
	require.Eventually(t, func() bool { return handled() == 200 }, 60*time.Second, 50*time.Millisecond)
	time.Sleep(3 * time.Second) // both members have joined

	admin, err := kafka.NewAdmin(cluster)
	require.NoError(t, err)
	defer admin.Close()
	require.NoError(t, admin.CreatePartitions(name, 7, nil, false))
	client, err := sarama.NewClient(cluster.Brokers, sarama.NewConfig())
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool {
		_ = client.RefreshMetadata(name)
		partitions, _ := client.Partitions(name)
		return len(partitions) == 7
	}, 30*time.Second, 50*time.Millisecond)
	produceFrom(t, cluster, name, 200, 300, 50)
	require.Eventually(t, func() bool { return handled() == 300 }, 60*time.Second, 50*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	for id, n := range seen {
		require.Equal(t, 1, n, id)
	}
}

// A member that is slower than the retention of its topic continues with the oldest remaining record.
func TestMemberGoesOnAfterItsRecordsWereDeleted(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	p := kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now)
	defer p.Close()
	for i := range 100 {
		msg := keyedMessage("k")
		msg.Payload = append([]byte(fmt.Sprint(i, " ")), bytes.Repeat([]byte("x"), 100_000)...)
		require.NoError(t, p.Send(t.Context(), []string{name}, []*message.Message{msg})[0])
	}
	sc := keyordered.DefaultSarama()
	sc.ChannelBufferSize = 0 // most records are not fetched before they are deleted
	sc.Consumer.Fetch.Default = 256 << 10
	s, err := keyordered.NewSubscriber(keyordered.Config{Brokers: c.Brokers, Group: name, Sarama: sc, MaxInFlight: 1})
	require.NoError(t, err)
	out, err := s.Subscribe(t.Context(), name)
	require.NoError(t, err)
	defer s.Close()
	first := <-out
	admin, err := sarama.NewClusterAdmin(c.Brokers, sc)
	require.NoError(t, err)
	defer admin.Close()
	client, err := sarama.NewClient(c.Brokers, sc)
	require.NoError(t, err)
	defer client.Close()
	partitions, err := client.Partitions(name)
	require.NoError(t, err)
	for _, partition := range partitions {
		end, err := client.GetOffset(name, partition, sarama.OffsetNewest)
		require.NoError(t, err)
		if end == 100 {
			require.NoError(t, admin.DeleteRecords(name, map[int32]int64{partition: 90}))
		}
	}
	first.Ack()
	patience := time.After(kittest.Patience)
	for n := 1; ; n++ {
		select {
		case msg := <-out:
			msg.Ack()
			if bytes.HasPrefix(msg.Payload, []byte("99 ")) {
				require.Less(t, n, 100, "nothing was deleted before it was fetched")
				return
			}
		case <-patience:
			require.Fail(t, "the partition stands still", "after %d records", n)
		}
	}
}
