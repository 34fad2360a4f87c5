package kafka

import (
	"context"
	"time"

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

	ends    map[place]*partitionEnd // asked for after the last Forget
	sent    map[keyOf]int64         // offsets after the last messages that were sent since, by key
	retryAt time.Time               // nothing is taken before, because Kafka did not answer or does not know the topic
}

// partitionEnd is the end of a partition, which a goroutine asks Kafka for.
type partitionEnd struct {
	answered chan struct{}
	offset   int64
	err      error
}

// The relay waits for Kafka's answer for maxEndWait. After an error or no answer, it sends for retryEndAfter without asking again: it would wait
// for each key in turn.
const (
	maxEndWait    = 100 * time.Millisecond
	retryEndAfter = time.Second
)

type keyOf struct{ topic, key string }

// maxSent is how many keys are remembered one by one. Then they are forgotten, and the ends of their partitions are asked for again.
const maxSent = 10_000

// NewLocalProducer makes a LocalProducer. Subscriber returns the subscriber of this process that handles a topic alone, nil if there is none.
func NewLocalProducer(p *Producer, subscriber func(topic string) *keyordered.Subscriber) *LocalProducer {
	return &LocalProducer{Producer: p, subscriber: subscriber, ends: map[place]*partitionEnd{}, sent: map[keyOf]int64{}}
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

// Offer hands a message to the subscriber of its topic. Taken false: it is to be sent. It does not connect, which takes long if Kafka is
// unavailable: Send does.
func (l *LocalProducer) Offer(topic string, msg *message.Message, more bool, done func(acked bool)) (taken bool) {
	subscriber := l.subscriber(topic)
	key := msg.Metadata[cqrs.HeaderKey]
	if subscriber == nil || key == "" || l.client == nil || l.stale || time.Now().Before(l.retryAt) {
		return false
	}
	at, err := l.placeOf(topic, []byte(key))
	if err != nil {
		l.retryAt = time.Now().Add(retryEndAfter)
		return false
	}
	end, ok := l.endOf(at)
	return ok && subscriber.Offer(keyordered.Offered{
		Topic: topic, Key: key, Partition: at.partition, After: max(end, l.sent[keyOf{topic, key}]), More: more, Message: msg, Done: done,
	})
}

// endOf is the end of a partition at some time after the last Forget. Messages that are sent while Kafka is asked are in sent too.
func (l *LocalProducer) endOf(at place) (offset int64, ok bool) {
	end := l.ends[at]
	if end == nil {
		end = &partitionEnd{answered: make(chan struct{})}
		l.ends[at] = end
		client := l.client
		go func() {
			defer close(end.answered)
			end.offset, end.err = client.GetOffset(at.topic, at.partition, sarama.OffsetNewest)
		}()
		select {
		case <-end.answered:
		case <-time.After(maxEndWait):
			l.retryAt = time.Now().Add(retryEndAfter)
		}
	}
	select {
	case <-end.answered:
	default:
		return 0, false
	}
	if end.err != nil {
		delete(l.ends, at)
		l.retryAt = time.Now().Add(retryEndAfter)
		return 0, false
	}
	return end.offset, true
}

// Forget forgets what was sent, because another producer may have sent messages since.
func (l *LocalProducer) Forget() {
	clear(l.ends)
	clear(l.sent)
}
