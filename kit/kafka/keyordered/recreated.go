package keyordered

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

const (
	// watchEvery is how often a member reads the id of its topic.
	watchEvery = time.Second

	// resetFor is how long after a topic was recreated a partition is read from its beginning when this member gets it. By then the other
	// members have seen the new topic too, and commit offsets of that topic.
	resetFor = time.Minute
)

// remade detects that a topic was deleted and created again under its name. A member would continue at its offset in the old topic. If the
// new topic is longer by then, the broker reports no error, and the records before that offset would never be delivered. Records that are
// delivered twice are duplicates for the consumer's inbox, as after a crash.
type remade struct {
	mu    sync.Mutex
	id    sarama.Uuid // of the topic; zero: not known yet, or the broker has no ids
	at    time.Time   // when another id was seen
	begun map[int32]bool
}

// watch calls changed, and returns, when the topic has another id; or it returns when ctx is done.
func (r *remade) watch(ctx context.Context, client sarama.Client, topic string, changed func()) {
	for {
		if r.differs(topicID(client, topic)) {
			changed()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchEvery):
		}
	}
}

// differs records the id of a topic, and tells whether it has changed.
func (r *remade) differs(id sarama.Uuid) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	unknown := sarama.Uuid{}
	if id == unknown || id == r.id {
		return false
	}
	before := r.id
	r.id = id
	if before == unknown {
		return false
	}
	r.at, r.begun = time.Now(), map[int32]bool{}
	return true
}

// reset makes the partitions of a session be read from their beginning, each once after the topic was recreated.
func (r *remade) reset(session sarama.ConsumerGroupSession) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || time.Since(r.at) > resetFor {
		return
	}
	for topic, partitions := range session.Claims() {
		for _, p := range partitions {
			if !r.begun[p] {
				r.begun[p] = true
				session.ResetOffset(topic, p, 0, "")
			}
		}
	}
}

// topicID reads the id of a topic; zero if there is no answer.
func topicID(client sarama.Client, topic string) (id sarama.Uuid) {
	broker := client.LeastLoadedBroker()
	if broker == nil {
		return id
	}
	response, err := broker.GetMetadata(sarama.NewMetadataRequest(client.Config().Version, []string{topic}))
	if err != nil {
		return id
	}
	for _, t := range response.Topics {
		if t.Name == topic && t.Err == sarama.ErrNoError {
			id = t.Uuid
		}
	}
	return id
}
