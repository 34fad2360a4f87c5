// Topics that are recreated or get more partitions: no record is skipped. TestRecreatedTopicIsReadFromItsBeginning and TestAddedPartitionsAreRead
// show it.

package keyordered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// A topic that is deleted and recreated has another id, and an offset of the old topic is meaningless in the new one. If the new topic is already
// longer, the broker accepts the old offset, and the records before it would never be handled. So each offset is committed together with the id of
// its topic, as metadata. A member that gets a partition whose offset was committed for another id reads the partition from its beginning. The
// consumer must recognise records that it reads twice, as after a crash.
//
// Brokers before Kafka 2.8 have no topic ids, so none of this applies to them.

// metadataOf returns the metadata with which offsets of a topic with this id are committed; empty if the broker has no topic ids.
func metadataOf(id sarama.Uuid) string {
	if id == (sarama.Uuid{}) {
		return ""
	}
	return "topic=" + id.String()
}

// note counts that a topic has another id than at the previous session, or that this is its first session.
func (s *Subscriber) note(topic string, id sarama.Uuid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, known := s.ids[topic]; !known || before != metadataOf(id) {
		s.remade[topic]++
	}
	s.ids[topic] = metadataOf(id)
}

// resetForeign resets the offsets of a session's partitions to the beginning if they were committed for another topic id. Offsets without an id count
// as offsets of this topic, and are committed again with its id.
func resetForeign(client sarama.Client, group, metadata string, session sarama.ConsumerGroupSession) (reset []int32, err error) {
	coordinator, err := client.Coordinator(group)
	if err != nil {
		return nil, fmt.Errorf("find the coordinator of %s: %w", group, err)
	}
	committed, err := coordinator.FetchOffset(sarama.NewOffsetFetchRequest(client.Config().Version, group, session.Claims()))
	if err != nil {
		_ = client.RefreshCoordinator(group) // the next attempt asks the right coordinator
		return nil, fmt.Errorf("read the offsets of %s: %w", group, err)
	}
	for topic, partitions := range session.Claims() {
		for _, p := range partitions {
			block := committed.GetBlock(topic, p)
			switch {
			case block == nil || block.Err != sarama.ErrNoError:
				return nil, fmt.Errorf("read the offset of %s for partition %d of %s: %w", group, p, topic, errorOf(block))
			case block.Offset < 0 || block.Metadata == metadata:
			case block.Metadata == "":
				session.ResetOffset(topic, p, block.Offset, metadata)
			default:
				session.ResetOffset(topic, p, 0, metadata)
				reset = append(reset, p)
			}
		}
	}
	return reset, nil
}

func errorOf(block *sarama.OffsetFetchResponseBlock) error {
	if block == nil {
		return sarama.ErrIncompleteResponse
	}
	return block.Err
}

// watch ends a session when the topic has another id than its offsets were committed with, or more partitions than the client knew when the session
// started; the member then joins again. It returns then, or when ctx is done. It calls OnMissing while the topic does not exist.
func (h *handler) watch(ctx context.Context, metadata string, known int, end func()) {
	for missing := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(h.config.CheckTopicEvery):
		}
		id, partitions, err := describe(h.client, h.topic)
		switch {
		case errors.Is(err, sarama.ErrUnknownTopicOrPartition):
			missing++ // a broker that has just started may not know the topic yet; OnMissing may lack the right to create it
			if missing > 1 && (missing < 10 || missing%30 == 0) {
				h.config.OnMissing(h.topic)
			}
		case err == nil && (metadataOf(id) != metadata || partitions > known):
			end()
			return
		default:
			missing = 0
		}
	}
}

// describe returns the id of a topic, which is zero if the broker has no topic ids, and its number of partitions.
func describe(client sarama.Client, topic string) (id sarama.Uuid, partitions int, err error) {
	broker := client.LeastLoadedBroker()
	if broker == nil {
		return sarama.Uuid{}, 0, sarama.ErrOutOfBrokers
	}
	response, err := broker.GetMetadata(sarama.NewMetadataRequest(client.Config().Version, []string{topic}))
	if err != nil {
		return sarama.Uuid{}, 0, fmt.Errorf("ask for the id of topic %s: %w", topic, err)
	}
	for _, t := range response.Topics {
		switch {
		case t.Name == topic && t.Err == sarama.ErrNoError:
			return t.Uuid, len(t.Partitions), nil
		case t.Name == topic:
			return sarama.Uuid{}, 0, fmt.Errorf("ask for the id of topic %s: %w", topic, t.Err)
		}
	}
	return sarama.Uuid{}, 0, fmt.Errorf("ask for the id of topic %s: %w", topic, sarama.ErrUnknownTopicOrPartition)
}
