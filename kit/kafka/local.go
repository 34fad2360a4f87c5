package kafka

import (
	"context"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka/keyordered"
)

// LocalProducer is a Producer that can also hand a message to a subscriber of this process, if that has the partition of the message's key and has
// received everything that was sent to Kafka for the key before. It implements outbox.Local.
//
// The relay that holds the lease of a key is the only one that sends its messages. So what was sent before is known from the end of the
// partition when the lease began, and from the offsets that Kafka returned since.
type LocalProducer struct {
	*Producer
	subscriber func(topic string) *keyordered.Subscriber // nil: the topic's messages are sent to Kafka

	ends map[place]int64 // of partitions, when they were asked for after the last Forget
	sent map[keyOf]int64 // offsets after the last messages that were sent since, by key
}

type keyOf struct{ topic, key string }

// maxSent is how many keys are remembered one by one. Then they are forgotten, and the ends of their partitions are asked for again.
const maxSent = 10_000

// NewLocalProducer makes a LocalProducer. Subscriber returns the subscriber of this process that handles a topic alone, nil if there is none.
func NewLocalProducer(p *Producer, subscriber func(topic string) *keyordered.Subscriber) *LocalProducer {
	return &LocalProducer{Producer: p, subscriber: subscriber, ends: map[place]int64{}, sent: map[keyOf]int64{}}
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
		if err == nil || l.subscriber(topics[i]) == nil {
			continue
		}
		l.Forget() // it may have been sent all the same
		break
	}
	return errs
}

// note notes the offset after a message, which was accepted in a batch that begins at base.
func (l *LocalProducer) note(k keyOf, base, end int64) {
	if l.subscriber(k.topic) == nil {
		return
	}
	if base < 0 || len(l.sent) >= maxSent { // below 0 Kafka does not tell, because it had accepted the batch before
		l.Forget()
	}
	if base >= 0 {
		l.sent[k] = end
	}
}

// Offer hands a message to the subscriber of its topic. Taken false: it is to be sent.
func (l *LocalProducer) Offer(topic string, msg *message.Message, more bool, done func(acked bool)) (taken bool) {
	subscriber := l.subscriber(topic)
	key := msg.Metadata[cqrs.HeaderKey]
	if subscriber == nil || key == "" || l.connect() != nil {
		return false
	}
	at, err := l.placeOf(topic, []byte(key))
	if err != nil {
		return false
	}
	end, known := l.ends[at]
	if !known {
		if end, err = l.client.GetOffset(topic, at.partition, sarama.OffsetNewest); err != nil {
			return false
		}
		l.ends[at] = end
	}
	return subscriber.Offer(keyordered.Offered{
		Topic: topic, Key: key, Partition: at.partition, After: max(end, l.sent[keyOf{topic, key}]), More: more, Message: msg, Done: done,
	})
}

// Forget forgets what was sent, because another producer may have sent messages since.
func (l *LocalProducer) Forget() {
	clear(l.ends)
	clear(l.sent)
}
