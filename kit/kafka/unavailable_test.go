package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kafka/keyordered"
	"github.com/millrace/millrace/kit/kittest"
)

// sick is a member whose handlers are unavailable when the test sets it.
type sick struct {
	*keyordered.Subscriber
	unavailable atomic.Bool
	handled     atomic.Int64
}

func member(t *testing.T, c kafka.Config, topic string) *sick {
	t.Helper()
	m := &sick{}
	var err error
	m.Subscriber, err = kafka.NewSubscriber(c, topic, kafka.SubscriberOptions{Unavailable: m.unavailable.Load}, watermill.NopLogger{})
	require.NoError(t, err)
	out, err := m.Subscribe(context.Background(), topic)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	go func() {
		for msg := range out {
			go func() {
				if m.unavailable.Load() {
					msg.Nack()
					return
				}
				m.handled.Add(1)
				msg.Ack()
			}()
		}
	}()
	return m
}

// partitions returns the number of partitions that are assigned to the member.
func (m *sick) partitions(topic string) (n int) {
	for _, given := range m.Given(topic) {
		if given {
			n++
		}
	}
	return n
}

// Other members handle the messages of a member whose handlers are unavailable. The last member stays in the group. A member whose handlers are
// available again joins again.
func TestMemberWithUnavailableHandlersLeaves(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	a, b := member(t, c, name), member(t, c, name)
	have := func(want ...int) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if has := []int{a.partitions(name), b.partitions(name)}; !slices.Equal(has, want) {
				return fmt.Errorf("they have %v of the partitions, not %v", has, want)
			}
			return nil
		})
	}
	handle := func(n int64, of *sick) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if handled := of.handled.Load(); handled < n {
				return fmt.Errorf("%d of %d are handled", handled, n)
			}
			return nil
		})
	}
	have(2, 2)
	a.unavailable.Store(true)
	produce(t, c, name, 40, 20)
	handle(40, b)
	require.True(t, b.HasAll(name))

	b.unavailable.Store(true) // now the handlers of both members are unavailable
	produceFrom(t, c, name, 40, 80, 20)
	require.Never(t, func() bool { return !b.HasAll(name) }, 4*time.Second, 50*time.Millisecond)
	b.unavailable.Store(false)
	handle(80, b)

	a.unavailable.Store(false)
	have(2, 2)
	produceFrom(t, c, name, 80, 120, 20)
	kittest.Eventually(t, func() error {
		if n := a.handled.Load() + b.handled.Load(); n < 120 {
			return fmt.Errorf("%d of 120 are handled", n)
		}
		return nil
	})
	require.Positive(t, a.handled.Load())
}

// A member that has all partitions leaves too, if the group has another member: a topic may have one partition, and of the instances on a host one has all of them.
func TestMemberWithAllPartitionsLeaves(t *testing.T) {
	c := config(t)
	name := "test." + uuid.NewString()
	_, err := kafka.EnsureTopics(t.Context(), c, []string{name}, 1)
	require.NoError(t, err)
	members := [2]*sick{member(t, c, name), member(t, c, name)}
	working := 0
	kittest.Eventually(t, func() error {
		for n, m := range members {
			if m.HasAll(name) {
				working = n
				return nil
			}
		}
		return errors.New("no member has the partition")
	})
	members[working].unavailable.Store(true)
	produce(t, c, name, 10, 5)
	kittest.Eventually(t, func() error {
		if n := members[1-working].handled.Load(); n < 10 {
			return fmt.Errorf("%d of 10 are handled", n)
		}
		return nil
	})
}
