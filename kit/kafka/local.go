// Messages that do not travel: a producer that can hand a message to a subscriber of this process. It keeps the order of a key, because the relay that holds the
// key's lease is the only one that sends its messages: what was sent before is known from the end of the partition when the lease began, and from the offsets that
// Kafka returned since. TestOfferDoesNotWaitForKafka, TestMemberKeepsItsPartitionsWhileKafkaIsAway and kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka/keyordered"
)

// LocalProducer is a Producer that can also hand a message to a subscriber of this process, if that has the partition of the message's key and has
// received everything that was sent to Kafka for the key before. It implements outbox.Local.
type LocalProducer struct {
	*Producer
	subscribers func() map[string]*keyordered.Subscriber // by topic; messages of other topics are sent to Kafka

	hash  sarama.Partitioner
	ends  map[string]*topicEnds // by topic, asked for after the last Forget
	sent  map[keyOf]int64       // offsets after the last messages that were sent since, by key; unknown if Kafka did not tell
	later map[string]time.Time  // the ends of a topic are not asked for before, because Kafka did not tell
}

// topicEnds are the ends of a topic's partitions, which a goroutine asks Kafka for.
type topicEnds struct {
	answered chan struct{}
	offsets  []int64 // by partition
	err      error
}

// A message waits for Kafka's answer for maxEndWait. After an error or no answer, messages are sent for retryEndAfter without asking again.
const (
	maxEndWait    = 100 * time.Millisecond
	retryEndAfter = time.Second
)

// unknown is an offset that no subscriber has reached.
const unknown = math.MaxInt64

type keyOf struct{ topic, key string }

// maxSent is how many keys are remembered one by one. Then they are forgotten, and the ends of their partitions are asked for again.
const maxSent = 10_000

// NewLocalProducer makes a LocalProducer. Subscribers returns the subscribers of this process that handle a topic alone, by topic; the map is not changed afterwards.
func NewLocalProducer(p *Producer, subscribers func() map[string]*keyordered.Subscriber) *LocalProducer {
	return &LocalProducer{Producer: p, subscribers: subscribers, hash: sarama.NewHashPartitioner(""), ends: map[string]*topicEnds{}, sent: map[keyOf]int64{}, later: map[string]time.Time{}}
}

// Send is that of Producer.
func (l *LocalProducer) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	l.accepted = func(base int64, rows []int) {
		for n, i := range rows {
			l.note(keyOf{topics[i], messages[i].Metadata[cqrs.HeaderKey]}, base, base+int64(n)+1)
		}
	}
	errs := l.Producer.Send(ctx, topics, messages)
	for i, err := range errs {
		if err != nil && !errors.Is(err, errNotSent) {
			l.note(keyOf{topics[i], messages[i].Metadata[cqrs.HeaderKey]}, -1, unknown) // it may have been sent all the same
		}
	}
	l.askAll()
	return errs
}

// note notes the offset after a message, which was accepted in a batch that begins at base. After one whose offset is not known, the key's
// messages are sent until Kafka tells one.
func (l *LocalProducer) note(k keyOf, base, end int64) {
	if l.subscribers()[k.topic] == nil {
		return
	}
	if base < 0 { // Kafka had accepted the batch before
		end = unknown
	}
	if _, known := l.sent[k]; !known && len(l.sent) >= maxSent && end != unknown {
		l.Forget()
	}
	l.sent[k] = end
}

// Offer hands a message to the subscriber of its topic. Taken false: it is to be sent. It needs no connection if the ends are known, and does not connect,
// which takes long if Kafka is unavailable: Send and Forget do.
func (l *LocalProducer) Offer(topic string, msg *message.Message, more bool, done func(acked bool)) (taken bool) {
	subscriber := l.subscribers()[topic]
	key := msg.Metadata[cqrs.HeaderKey]
	if subscriber == nil || key == "" {
		return false
	}
	ends := l.endsOf(topic)
	if ends == nil {
		return false
	}
	if l.client != nil {
		if now, err := l.client.Partitions(topic); err == nil && len(now) != len(ends) {
			delete(l.ends, topic)
			return false
		}
	}
	partition, err := l.hash.Partition(&sarama.ProducerMessage{Key: sarama.StringEncoder(key)}, int32(len(ends))) //nolint:gosec // a few thousand at most
	return err == nil && subscriber.Offer(keyordered.Offered{
		Topic: topic, Key: key, Partition: partition, After: max(ends[partition], l.sent[keyOf{topic, key}]), More: more, Message: msg, Done: done,
	})
}

// Ready implements outbox.Local: the ends of all topics are known.
func (l *LocalProducer) Ready() bool {
	l.askAll()
	for topic := range l.subscribers() {
		if l.ends[topic] == nil || l.endsOf(topic) == nil {
			return false
		}
	}
	return len(l.subscribers()) > 0
}

// endsOf are the ends of a topic's partitions at some time after the last Forget; nil if they are not known. Messages that are sent while Kafka is asked
// are in sent too.
func (l *LocalProducer) endsOf(topic string) []int64 {
	ends := l.ends[topic]
	if ends == nil {
		if ends = l.ask(topic); ends == nil {
			return nil
		}
		select {
		case <-ends.answered:
		case <-time.After(maxEndWait):
		}
	}
	select {
	case <-ends.answered:
	default:
		return nil
	}
	if ends.err != nil {
		delete(l.ends, topic)
		l.later[topic] = time.Now().Add(retryEndAfter)
		return nil
	}
	return ends.offsets
}

// ask begins to ask Kafka for the ends of a topic's partitions. It returns nil if that failed a moment ago.
func (l *LocalProducer) ask(topic string) *topicEnds {
	if l.client == nil || time.Now().Before(l.later[topic]) {
		return nil
	}
	ends, client := &topicEnds{answered: make(chan struct{})}, l.client
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
	return ends
}

// Forget forgets what was sent, because another producer may have sent messages since. It connects, and asks for the ends of all topics at once: when Kafka
// is away it is too late.
func (l *LocalProducer) Forget() {
	clear(l.ends)
	clear(l.sent)
	if len(l.subscribers()) > 0 && l.connect() == nil {
		l.askAll()
	}
}

// askAll asks for the ends of the topics for which that was not done yet.
func (l *LocalProducer) askAll() {
	if l.client == nil {
		return
	}
	for topic := range l.subscribers() {
		if l.ends[topic] == nil {
			l.ask(topic)
		}
	}
}
