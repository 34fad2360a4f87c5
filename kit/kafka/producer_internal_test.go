package kafka

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/kit/cqrs"
)

func keyedMessage(key string, size int) *message.Message {
	msg := message.NewMessage("m", make([]byte, size))
	msg.Metadata[cqrs.HeaderKey] = key
	return msg
}

// After 32,767 failures the epochs of a producer id are used up, here in the middle of a call that needs several requests. The producer gets another
// id and continues.
func TestProducerEpochsAreUsedUp(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "things", "others"))
	require.NoError(t, err)
	defer cluster.Close()
	p := NewProducer(Config{Brokers: cluster.ListenAddrs(), ClientID: "test"}, func() int { return 1000 }, time.Now)
	defer p.Close()
	require.NoError(t, p.Send(t.Context(), []string{"things"}, []*message.Message{keyedMessage("k", 1)})[0])
	first := p.id
	var topics []string
	var messages []*message.Message
	for range 5 { // one message of each topic per request
		topics, messages = append(topics, "things", "others"), append(messages, keyedMessage("k", 600), keyedMessage("k", 600))
	}
	const produce, notAuthorised = 0, 29
	cluster.ControlKey(produce, func(request kmsg.Request) (kmsg.Response, error, bool) { // once: the broker refuses one topic and accepts the other
		answer := request.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range request.(*kmsg.ProduceRequest).Topics {
			partition := kmsg.NewProduceResponseTopicPartition()
			if topic.Topic == "things" {
				partition.ErrorCode = notAuthorised
			}
			answer.Topics = append(answer.Topics, kmsg.ProduceResponseTopic{Topic: topic.Topic, Partitions: []kmsg.ProduceResponseTopicPartition{partition}})
		}
		return answer, nil, true
	})
	p.epoch = math.MaxInt16 - 1
	clear(p.sequences)
	for i, err := range p.Send(t.Context(), topics, messages) {
		if topics[i] == "things" {
			require.True(t, TopicFault(err), err)
		} else {
			require.NoError(t, err)
		}
	}
	require.NotEqual(t, first, p.id)
	for _, err := range p.Send(t.Context(), topics, messages) {
		require.NoError(t, err)
	}
}

// A partition whose leader has changed is retried, in order, before it fails. A partition without a leader fails.
func TestProducerFollowsALeaderThatMoves(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "things"))
	require.NoError(t, err)
	defer cluster.Close()
	p := NewProducer(Config{Brokers: cluster.ListenAddrs(), ClientID: "test"}, func() int { return DefaultLimit }, time.Now)
	defer p.Close()
	const produce, notLeader = 0, 6
	refuse := func(times int) {
		for range times {
			cluster.ControlKey(produce, func(request kmsg.Request) (kmsg.Response, error, bool) { // once
				answer := request.ResponseKind().(*kmsg.ProduceResponse)
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.ErrorCode = notLeader
				answer.Topics = []kmsg.ProduceResponseTopic{{Topic: "things", Partitions: []kmsg.ProduceResponseTopicPartition{partition}}}
				return answer, nil, true
			})
		}
	}
	send := func() []error {
		return p.Send(t.Context(), []string{"things", "things"}, []*message.Message{keyedMessage("k", 1), keyedMessage("k", 1)})
	}
	refuse(leaderAttempts)
	require.Equal(t, []error{nil, nil}, send())
	refuse(leaderAttempts + 1)
	for _, err := range send() {
		require.True(t, TopicFault(err), err)
	}
	require.Equal(t, []error{nil, nil}, send())
}

// Send returns when its context ends because the lease was lost, although the broker does not answer. The producer works afterwards.
func TestProducerSendEndsWithItsContext(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "things"))
	require.NoError(t, err)
	defer cluster.Close()
	p := NewProducer(Config{Brokers: cluster.ListenAddrs(), ClientID: "test"}, func() int { return DefaultLimit }, time.Now)
	defer p.Close()
	send := func(ctx context.Context) error {
		return p.Send(ctx, []string{"things"}, []*message.Message{keyedMessage("k", 1)})[0]
	}
	require.NoError(t, send(t.Context()))
	answer := make(chan struct{})
	const produce = 0
	cluster.ControlKey(produce, func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errTest)
	defer cancel()
	began := time.Now()
	require.ErrorIs(t, send(ctx), errTest)
	require.Less(t, time.Since(began), 10*time.Second, "the time limit of a request is 15 s")
	require.ErrorIs(t, send(ctx), errTest, "nothing is sent any more")
	close(answer)
	require.Eventually(t, func() bool { return send(t.Context()) == nil }, 10*time.Second, 50*time.Millisecond)
}

var errTest = errors.New("the lease was lost")
