// The ends of a topic's partitions, which a LocalProducer asks Kafka for: what was sent before it held its leases is below them. TestOfferDoesNotWaitForKafka,
// TestTopicMadeAgainBeforeTheFirstSession and TestMemberKeepsItsPartitionsWhileKafkaIsAway show it.

package kafka

import (
	"fmt"
	"maps"
	"time"

	"github.com/IBM/sarama"
)

// topicEnds are the ends of a topic's partitions, which a goroutine asks Kafka for.
type topicEnds struct {
	client   sarama.Client // that was asked
	answered chan struct{}
	offsets  []int64 // by partition
	remade   int     // how often the subscriber had found another topic of this name when they were asked for
	err      error
	compared time.Time // when the number of partitions was last compared
}

// A message waits for Kafka's answer for maxEndWait. After an error or no answer, messages are sent for retryEndAfter without asking again. While keys are claimed, the
// number of partitions is compared each compareEvery.
const (
	maxEndWait    = 100 * time.Millisecond
	retryEndAfter = time.Second
	compareEvery  = time.Second
)

// compareNow is compare with the client of the producer, which may be a new one. The goroutine that uses the Producer calls it.
func (l *LocalProducer) compareNow(topic string) {
	l.mu.Lock()
	if ends := l.ends[topic]; ends != nil && l.client != nil {
		ends.client = l.client
	}
	l.mu.Unlock()
	l.compare(topic)
}

// compare forgets the ends of a topic that has another number of partitions now. It may ask Kafka if the topic does not exist.
func (l *LocalProducer) compare(topic string) {
	l.mu.Lock()
	ends := l.endsOf(topic)
	if ends == nil {
		l.mu.Unlock()
		return
	}
	client := ends.client
	l.mu.Unlock()
	now, err := client.Partitions(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	ends.compared = time.Now()
	if err == nil && len(now) != len(ends.offsets) && l.ends[topic] == ends {
		delete(l.ends, topic)
	}
}

// await asks for the ends of a topic's partitions if that was not done yet, and waits for the answer.
func (l *LocalProducer) await(topic string) {
	l.mu.Lock()
	asked := l.ends[topic] == nil
	if asked {
		l.ask(topic)
	}
	ends := l.ends[topic]
	l.mu.Unlock()
	if !asked || ends == nil {
		return
	}
	select {
	case <-ends.answered:
	case <-time.After(maxEndWait):
	}
}

// endsOf are the ends of a topic's partitions at some time after the last Forget; nil if they are not known. Messages that are sent while Kafka is asked
// are in sent too. It is called under the lock.
func (l *LocalProducer) endsOf(topic string) *topicEnds {
	ends := l.ends[topic]
	if ends == nil {
		return nil
	}
	select {
	case <-ends.answered:
	default:
		return nil
	}
	if s := l.subscribers()[topic]; s != nil && s.Remade(topic) != ends.remade {
		delete(l.ends, topic)
		maps.DeleteFunc(l.sent, func(k keyOf, _ int64) bool { return k.topic == topic })
		return nil
	}
	if ends.err != nil {
		delete(l.ends, topic)
		l.later[topic] = time.Now().Add(retryEndAfter)
		return nil
	}
	return ends
}

// ask begins to ask Kafka for the ends of a topic's partitions, unless that failed a moment ago. It is called under the lock.
func (l *LocalProducer) ask(topic string) {
	client := l.client
	if client == nil || time.Now().Before(l.later[topic]) {
		return
	}
	ends := &topicEnds{client: client, answered: make(chan struct{})}
	if s := l.subscribers()[topic]; s != nil {
		ends.remade = s.Remade(topic)
	}
	l.ends[topic] = ends
	go func() {
		defer close(ends.answered)
		partitions, err := client.Partitions(topic)
		if ends.err = err; err == nil && len(partitions) == 0 {
			ends.err = sarama.ErrUnknownTopicOrPartition
		}
		ends.offsets = make([]int64, len(partitions))
		for _, partition := range partitions {
			if ends.err == nil && int(partition) >= len(partitions) { // Kafka numbers them from 0
				ends.err = fmt.Errorf("partition %d of %d", partition, len(partitions))
			}
			if ends.err == nil {
				ends.offsets[partition], ends.err = client.GetOffset(topic, partition, sarama.OffsetNewest)
			}
		}
	}()
}

// askAll asks for the ends of the topics for which that was not done yet.
func (l *LocalProducer) askAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for topic := range l.subscribers() {
		if l.ends[topic] == nil {
			l.ask(topic)
		}
	}
}
