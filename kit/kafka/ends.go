// The end offsets of a topic's partitions, which a LocalProducer requests from Kafka: messages that were sent before the producer had its leases are
// below them. TestOfferDoesNotWaitForKafka, TestTopicMadeAgainBeforeTheFirstSession and TestMemberKeepsItsPartitionsWhileKafkaIsAway show it.

package kafka

import (
	"fmt"
	"maps"
	"time"

	"github.com/IBM/sarama"
)

// topicEnds are the end offsets of a topic's partitions, which a goroutine requests from Kafka.
type topicEnds struct {
	client   sarama.Client // the client of the request
	answered chan struct{}
	offsets  []int64 // the end offsets by partition
	remade   int     // Subscriber.Remade of the topic when the request began
	err      error
	compared time.Time // when the number of partitions was last checked
}

// A message waits up to maxEndWait for the end offsets. After an error, messages are sent to Kafka for retryEndAfter before the offsets are requested
// again. While keys are claimed, the number of partitions is checked every compareEvery.
const (
	maxEndWait    = 100 * time.Millisecond
	retryEndAfter = time.Second
	compareEvery  = time.Second
)

// compareNow calls compare with the current client of the producer. Only the goroutine that uses the Producer calls it.
func (l *LocalProducer) compareNow(topic string) {
	l.mu.Lock()
	if ends := l.ends[topic]; ends != nil && l.client != nil {
		ends.client = l.client
	}
	l.mu.Unlock()
	l.compare(topic)
}

// compare discards the end offsets of a topic whose number of partitions has changed. It may send a request to Kafka if the topic does not exist.
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

// await requests the end offsets of a topic if they were not requested yet, and then waits for them up to maxEndWait.
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

// endsOf returns the end offsets of a topic's partitions at some time after the last Forget; nil if they are not known. Messages that are sent during
// the request are also in sent. The caller holds the lock.
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

// ask starts a request for the end offsets of a topic's partitions, unless a request failed less than retryEndAfter ago. The caller holds the lock.
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
			if ends.err == nil && int(partition) >= len(partitions) { // Kafka numbers partitions from 0
				ends.err = fmt.Errorf("partition %d of %d", partition, len(partitions))
			}
			if ends.err == nil {
				ends.offsets[partition], ends.err = client.GetOffset(topic, partition, sarama.OffsetNewest)
			}
		}
	}()
}

// askAll requests the end offsets of the topics for which they were not requested yet.
func (l *LocalProducer) askAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for topic := range l.subscribers() {
		if l.ends[topic] == nil {
			l.ask(topic)
		}
	}
}
