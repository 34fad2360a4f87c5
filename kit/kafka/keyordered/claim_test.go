package keyordered

import (
	"context"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// A key can be claimed once. Its records and offered messages wait for the message that the claim delivers, or for its release; messages of other
// keys do not wait. The value that the claim adds to the context is present only at the first delivery.
func TestClaimedKeyWaits(t *testing.T) {
	s := offeringSubscriber(t, 10)
	out := make(chan *message.Message)
	p, _ := offerable(t, s, out, 10_000)
	require.Nil(t, s.Claim("t", 1, "k", 0), "this member does not have the partition")
	require.Nil(t, s.Claim("t", 0, "k", 1), "a record before it was not received")
	c := s.Claim("t", 0, "k", 0)
	require.NotNil(t, c)
	require.Nil(t, s.Claim("t", 0, "k", 0))
	require.False(t, s.Offer(Offered{Topic: "t", Key: "other", After: 1, Message: numbered("other", "early")}))
	require.True(t, p.admit(&sarama.ConsumerMessage{Key: []byte("k"), Value: []byte("record")}))
	require.True(t, s.Offer(Offered{Topic: "t", Key: "k", More: true, After: 1, Message: numbered("k", "offered"), Done: func(bool) {}}))
	require.True(t, s.Offer(Offered{Topic: "t", Key: "other", After: 1, Message: numbered("other", "other"), Done: func(bool) {}}))
	next := func() *message.Message {
		select {
		case msg := <-out:
			return msg
		case <-time.After(5 * time.Second):
			require.Fail(t, "nothing is delivered")
			return nil
		}
	}
	other := next()
	require.Equal(t, "other", string(other.Payload))
	other.Ack()
	select {
	case msg := <-out:
		t.Fatalf("%s is delivered while its key is claimed", msg.Payload)
	case <-time.After(50 * time.Millisecond):
	}
	done := make(chan bool, 2)
	c.Deliver(numbered("k", "claimed"), func(ctx context.Context) context.Context { return context.WithValue(ctx, "first", true) }, func(acked bool) { done <- acked }) //nolint:staticcheck // of this test
	c.Release()
	first := next()
	require.Equal(t, "claimed", string(first.Payload))
	require.NotNil(t, first.Context().Value("first"))
	first.Nack()
	again := next()
	require.Equal(t, "claimed", string(again.Payload))
	require.Nil(t, again.Context().Value("first"))
	again.Ack()
	require.True(t, <-done)
	for _, text := range []string{"record", "offered"} {
		msg := next()
		require.Equal(t, text, string(msg.Payload))
		require.Nil(t, s.Claim("t", 0, "k", 0), "a message of the key is in flight")
		msg.Ack()
	}
	require.Eventually(t, func() bool {
		c := s.Claim("t", 0, "k", 0)
		if c != nil {
			c.Release()
			c.Release()
		}
		return c != nil
	}, 5*time.Second, time.Millisecond)
	require.Empty(t, done)
}

// A partition that is revoked waits for its claims, and reports messages that a claim delivers afterwards as not acknowledged.
func TestClaimOfALostPartition(t *testing.T) {
	s := offeringSubscriber(t, 10)
	p, lost := offerable(t, s, make(chan *message.Message), 10_000)
	released, delivered := s.Claim("t", 0, "a", 0), s.Claim("t", 0, "b", 0)
	lost()
	require.Nil(t, s.Claim("t", 0, "c", 0))
	drained := make(chan struct{})
	go func() { defer close(drained); p.drain(10*time.Second, func() {}) }()
	select {
	case <-drained:
		t.Fatal("it is drained while keys are claimed")
	case <-time.After(50 * time.Millisecond):
	}
	released.Release()
	done := make(chan bool, 1)
	delivered.Deliver(numbered("b", "1"), nil, func(acked bool) { done <- acked })
	require.False(t, <-done)
	<-drained
	require.Equal(t, 10_000, p.bytes.left)
}

// A claim that is used after the drain has given up, because its commit hangs, delivers nothing: the channel may be closed.
func TestClaimAfterTheDrain(t *testing.T) {
	for range 20 {
		s := offeringSubscriber(t, 10)
		out := make(chan *message.Message)
		p, lost := offerable(t, s, out, 10_000)
		c := s.Claim("t", 0, "k", 0)
		lost()
		p.drain(time.Millisecond, func() {})
		close(out)
		done := make(chan bool, 1)
		c.Deliver(numbered("k", "claimed"), nil, func(acked bool) { done <- acked })
		require.False(t, <-done)
	}
}
