// Messages that do not travel: a producer that can hand a message to a subscriber of this process. It keeps the order of a key, because the relay that holds the
// key's lease is the only one that sends its messages: what was sent before is known from the end of the partition when the lease began, and from the offsets that
// Kafka returned since. TestOfferDoesNotWaitForKafka, TestMemberKeepsItsPartitionsWhileKafkaIsAway and kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package kafka

import (
	"context"
	"errors"
	"math"
	"sync"
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

	mu    sync.Mutex // of what follows, because any goroutine calls Claim; the rest is for the goroutine that uses the Producer
	hash  sarama.Partitioner
	ends  map[string]*topicEnds // by topic, asked for after the last Forget
	sent  map[keyOf]int64       // offsets after the last messages that were sent since, by key; unknown if Kafka did not tell
	later map[string]time.Time  // the ends of a topic are not asked for before, because Kafka did not tell
}

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
	for topic := range l.subscribers() {
		l.compareNow(topic) // what was sent has places by the current number of partitions
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
	l.mu.Lock()
	_, known := l.sent[k]
	full := !known && len(l.sent) >= maxSent && end != unknown
	l.mu.Unlock()
	if full {
		l.Forget()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
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
	l.await(topic)
	l.compareNow(topic)
	l.mu.Lock()
	partition, after, ok := l.place(topic, key)
	l.mu.Unlock()
	return ok && subscriber.Offer(keyordered.Offered{Topic: topic, Key: key, Partition: partition, After: after, More: more, Message: msg, Done: done})
}

// Claim implements outbox.Claimer. It neither waits nor connects.
func (l *LocalProducer) Claim(topic, key string) (release func(), deliver func(msg *message.Message, with func(context.Context) context.Context, done func(acked bool))) {
	subscriber := l.subscribers()[topic]
	if subscriber == nil {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	partition, after, ok := l.place(topic, key)
	if !ok {
		return nil, nil
	}
	if ends := l.ends[topic]; time.Since(ends.compared) > compareEvery {
		ends.compared = time.Now()
		go l.compare(topic)
	}
	c := subscriber.Claim(topic, partition, key, after)
	if c == nil {
		return nil, nil
	}
	return c.Release, c.Deliver
}

// place is the partition of a key, and the offset below which are all its messages that were sent. Ok false: it is not known. It is called under the lock.
func (l *LocalProducer) place(topic, key string) (partition int32, after int64, ok bool) {
	ends := l.endsOf(topic)
	if ends == nil {
		return 0, 0, false
	}
	partition, err := l.hash.Partition(&sarama.ProducerMessage{Key: sarama.StringEncoder(key)}, int32(len(ends.offsets))) //nolint:gosec // a few thousand at most
	return partition, max(ends.offsets[partition], l.sent[keyOf{topic, key}]), err == nil
}

// Ready implements outbox.Local: the ends of all topics are known.
func (l *LocalProducer) Ready() bool {
	l.askAll()
	l.mu.Lock()
	defer l.mu.Unlock()
	for topic := range l.subscribers() {
		if l.endsOf(topic) == nil {
			return false
		}
	}
	return len(l.subscribers()) > 0
}

// Forget forgets what was sent, because another producer may have sent messages since. It connects, and asks for the ends of all topics at once: when Kafka
// is away it is too late.
func (l *LocalProducer) Forget() {
	l.mu.Lock()
	clear(l.ends)
	clear(l.sent)
	l.mu.Unlock()
	if len(l.subscribers()) > 0 && l.connect() == nil {
		l.askAll()
	}
}
