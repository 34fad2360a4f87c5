package keyordered

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/embedded"
)

// claiming is a session that has the only partition of the topic t.
type claiming struct {
	sarama.ConsumerGroupSession
	ctx context.Context //nolint:containedctx // it is what the interface returns
}

func (c claiming) Context() context.Context { return c.ctx }
func (claiming) Claims() map[string][]int32 { return map[string][]int32{"t": {0}} }

// A session's partitions are kept while Kafka is unavailable, and given up when the coordinator has ended the session or the member's client is
// closed.
func TestPartitionsAreHeldForAnOutageOnly(t *testing.T) {
	broker, err := embedded.StartKafka(t.TempDir(), 0)
	require.NoError(t, err)
	t.Cleanup(broker.Stop)
	c := DefaultSarama()
	admin, err := sarama.NewClusterAdmin(broker.Brokers, c)
	require.NoError(t, err)
	require.NoError(t, admin.CreateTopic("t", &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false))
	require.NoError(t, admin.Close())
	s, err := NewSubscriber(Config{Brokers: broker.Brokers, Group: "g", KeepOffline: func() bool { return true }})
	require.NoError(t, err)
	client, err := sarama.NewClient(broker.Brokers, c)
	require.NoError(t, err)
	begin := func() (h *handler, end context.CancelCauseFunc) {
		h = &handler{Subscriber: s, config: s.config, ctx: t.Context(), client: client, topic: "t"}
		session, end := context.WithCancelCause(t.Context())
		h.hold(claiming{ctx: session})
		require.True(t, s.HasAll("t"))
		return h, end
	}
	givenUp := func(h *handler) {
		t.Helper()
		select {
		case <-h.held.Done():
		case <-time.After(20 * time.Second):
			require.Fail(t, "the partitions are held")
		}
		require.False(t, s.HasAll("t"))
	}
	for _, cause := range []error{sarama.ErrRebalanceInProgress, sarama.ErrUnknownMemberId, context.Canceled, errors.New("any, while Kafka answers")} {
		h, end := begin()
		end(cause)
		givenUp(h)
	}
	h, end := begin()
	broker.Stop()
	end(errors.New("connection refused"))
	time.Sleep(4 * offlineCheck)
	require.True(t, s.HasAll("t"))
	require.NoError(t, client.Close())
	givenUp(h)
}
