package kafka_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
)

// transaction sends records in one transaction, which it commits or aborts.
func transaction(t *testing.T, c kafka.Config, topic, id string, texts []string, end func(sarama.AsyncProducer) error) {
	t.Helper()
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0
	s.Producer.Idempotent, s.Producer.RequiredAcks, s.Net.MaxOpenRequests = true, sarama.WaitForAll, 1
	s.Producer.Transaction.ID = id
	s.Producer.Return.Successes = true
	p, err := sarama.NewAsyncProducer(c.Brokers, s)
	require.NoError(t, err)
	defer p.Close()
	require.NoError(t, p.BeginTxn())
	for _, text := range texts {
		p.Input() <- &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder(text), Partition: 0}
		select {
		case <-p.Successes(): // the record is in the log
		case err := <-p.Errors():
			require.NoError(t, err)
		}
	}
	require.NoError(t, end(p))
}

// The subscriber and the tools do not read records of aborted transactions. Here the aborted records are the last records of the log.
func TestReadCommittedSkipsAbortedTransactions(t *testing.T) {
	if os.Getenv("KAFKA_BROKERS") == "" {
		t.Skip("needs a real Kafka, which has transactions as they are in production: set KAFKA_BROKERS")
	}
	c := config(t)
	name, id := topic(t, c), "test."+uuid.NewString()
	commit, abort := sarama.AsyncProducer.CommitTxn, sarama.AsyncProducer.AbortTxn
	want := []string{"1", "2", "5", "6"}
	transaction(t, c, name, id, []string{"1", "2"}, commit)
	transaction(t, c, name, id, []string{"3", "4"}, abort)
	transaction(t, c, name, id, []string{"5", "6"}, commit)
	transaction(t, c, name, id, []string{"7"}, abort)
	var read []string
	require.NoError(t, kafka.ReadAll(t.Context(), c, []string{name}, func(_ string, msg *message.Message) error {
		read = append(read, string(msg.Payload))
		return nil
	}))
	require.Equal(t, want, read)
	s, err := kafka.NewSubscriber(c, "test."+uuid.NewString(), kafka.SubscriberOptions{KeyHeader: cqrs.HeaderKey}, watermill.NopLogger{})
	require.NoError(t, err)
	messages, err := s.Subscribe(t.Context(), name)
	require.NoError(t, err)
	var got []string
	kittest.Eventually(t, func() error {
		select {
		case msg := <-messages:
			got = append(got, string(msg.Payload))
			msg.Ack()
		case <-time.After(2 * time.Second):
		}
		if len(got) < len(want) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	select {
	case msg := <-messages:
		got = append(got, string(msg.Payload))
	case <-time.After(2 * time.Second):
	}
	require.Equal(t, want, got)
	require.NoError(t, s.Close())
}

// Records have the time of the producer's clock, not of the host. Kafka refuses records from the future, and this is a fault of the topic.
func TestRecordTimestampsAreTheGivenClocks(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	at := time.Now().Add(-3 * time.Hour).Truncate(time.Millisecond)
	clock := func() time.Time { return at }
	p := kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, clock)
	defer p.Close()
	require.Equal(t, []error{nil}, p.Send(t.Context(), []string{name}, []*message.Message{aMessage()}))
	consumer, err := sarama.NewConsumer(c.Brokers, sarama.NewConfig())
	require.NoError(t, err)
	defer consumer.Close()
	var times []time.Time
	for partition := range int32(4) {
		records, err := consumer.ConsumePartition(name, partition, sarama.OffsetOldest)
		require.NoError(t, err)
		for open := true; open; {
			select {
			case r := <-records.Messages():
				times = append(times, r.Timestamp)
			case <-time.After(500 * time.Millisecond):
				open = false
			}
		}
		records.AsyncClose()
	}
	require.Len(t, times, 1)
	for _, got := range times {
		require.WithinDuration(t, at, got, 0)
	}
	if os.Getenv("KAFKA_BROKERS") != "" {
		at = time.Now().Add(3 * time.Hour)
		err := p.Send(t.Context(), []string{name}, []*message.Message{aMessage()})[0]
		require.ErrorIs(t, err, sarama.ErrInvalidTimestamp)
		require.True(t, kafka.TopicFault(err))
	}
}

func aMessage() *message.Message {
	msg := message.NewMessage(uuid.NewString(), []byte("x"))
	msg.Metadata[cqrs.HeaderKey] = "k"
	return msg
}
