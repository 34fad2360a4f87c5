// Local delivery: a producer that can deliver a message to a subscriber of this process without Kafka. The order of a key is kept because only the
// relay that holds the key's lease sends its messages. The relay knows which messages it must wait for: those below the partition's end at the start
// of the lease, and those whose offsets Kafka returned since. TestOfferDoesNotWaitForKafka, TestMemberKeepsItsPartitionsWhileKafkaIsAway and
// kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

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

// LocalProducer is a Producer that can also deliver a message to a subscriber of this process, if that subscriber has the partition of the message's
// key and has received all earlier messages of the key from Kafka. It implements outbox.Local. Only Claim may be called concurrently.
type LocalProducer struct {
	*Producer
	subscribers func() map[string]*keyordered.Subscriber // by topic; messages of other topics are sent to Kafka

	mu    sync.Mutex // protects the fields below, because any goroutine calls Claim; only the goroutine that uses the Producer uses the other fields
	hash  sarama.Partitioner
	ends  map[string]*topicEnds // by topic, requested after the last Forget
	sent  map[keyOf]int64       // offsets after the last messages sent since then, by key; unknown if Kafka did not return them
	later map[string]time.Time  // by topic: when its end offsets may be requested again after a failure
}

// unknown is an offset that no subscriber has reached.
const unknown = math.MaxInt64

type keyOf struct{ topic, key string }

// maxSent is the maximum number of keys in sent. When it is reached, Forget discards them and requests the end offsets of their partitions again.
const maxSent = 10_000

// NewLocalProducer makes a LocalProducer. Subscribers returns, by topic, the subscribers of this process whose group alone consumes the topic; it
// must not change the map after returning it.
func NewLocalProducer(p *Producer, subscribers func() map[string]*keyordered.Subscriber) *LocalProducer {
	return &LocalProducer{Producer: p, subscribers: subscribers, hash: sarama.NewHashPartitioner(""), ends: map[string]*topicEnds{}, sent: map[keyOf]int64{}, later: map[string]time.Time{}}
}

// Send sends messages as Producer.Send does, and records the offsets that Kafka returns.
func (l *LocalProducer) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	l.accepted = func(base int64, rows []int) {
		for n, i := range rows {
			l.note(keyOf{topics[i], messages[i].Metadata[cqrs.HeaderKey]}, base, base+int64(n)+1)
		}
	}
	errs := l.Producer.Send(ctx, topics, messages)
	for i, err := range errs {
		if err != nil && !errors.Is(err, errNotSent) {
			l.note(keyOf{topics[i], messages[i].Metadata[cqrs.HeaderKey]}, -1, unknown) // the message may have been sent despite the error
		}
	}
	for topic := range l.subscribers() {
		l.compareNow(topic) // messages were sent by the current number of partitions
	}
	l.askAll()
	return errs
}

// note records the offset after a message that was accepted in a batch whose first record has the offset base. If the offset is not known, messages
// of the key are sent to Kafka until Kafka returns an offset.
func (l *LocalProducer) note(k keyOf, base, end int64) {
	if l.subscribers()[k.topic] == nil {
		return
	}
	if base < 0 { // Kafka had accepted the batch before, and returns no offset
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

// Offer delivers a message to the subscriber of its topic. If taken is false, the message must be sent to Kafka. Offer waits at most 100 ms for
// the end offsets. It never connects, because a connection attempt takes long while Kafka is unavailable; Send and Forget connect.
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

// Claim implements outbox.Claimer. It neither waits for Kafka nor connects. It is safe for concurrent use.
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

// place returns the partition of a key, and an offset that is greater than those of all messages of the key that were sent. Ok is false if the offset
// is not known. The caller holds the lock.
func (l *LocalProducer) place(topic, key string) (partition int32, after int64, ok bool) {
	ends := l.endsOf(topic)
	if ends == nil {
		return 0, 0, false
	}
	partition, err := l.hash.Partition(&sarama.ProducerMessage{Key: sarama.StringEncoder(key)}, int32(len(ends.offsets))) //nolint:gosec // a few thousand at most
	return partition, max(ends.offsets[partition], l.sent[keyOf{topic, key}]), err == nil
}

// Ready implements outbox.Local. It tells whether the end offsets of all topics with local delivery are known.
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

// Forget discards the offsets of sent messages, because another producer may have sent messages since. It connects and requests the end offsets of
// all topics at once, because it cannot do so later if Kafka becomes unavailable.
func (l *LocalProducer) Forget() {
	l.mu.Lock()
	clear(l.ends)
	clear(l.sent)
	l.mu.Unlock()
	if len(l.subscribers()) > 0 && l.connect() == nil {
		l.askAll()
	}
}
