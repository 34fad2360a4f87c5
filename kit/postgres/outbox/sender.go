package outbox

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// PublisherSender sends with any Watermill publisher, one message per call: keys in parallel, each key in order. A panic of the publisher is an error of the message.
func PublisherSender(p message.Publisher) func() Sender {
	return func() Sender { return throughPublisher{p} }
}

// BatchSender sends with a Watermill publisher that publishes all messages of a call or none: one call per topic.
func BatchSender(p message.Publisher) func() Sender {
	return func() Sender { return throughBatches{p} }
}

type throughBatches struct{ message.Publisher }

// Close leaves the publisher open: it is not ours.
func (throughBatches) Close() {}

// Send implements Sender.
func (t throughBatches) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	errs := make([]error, len(messages))
	rows := map[string][]int{}
	for i, topic := range topics {
		rows[topic] = append(rows[topic], i)
	}
	for topic, of := range rows {
		batch := make([]*message.Message, len(of))
		for n, i := range of {
			batch[n] = messages[i]
		}
		err := context.Cause(ctx)
		if err == nil {
			err = cqrs.Protect(func() error { return t.Publish(topic, batch...) })
		}
		for _, i := range of {
			errs[i] = err
		}
	}
	return errs
}

type throughPublisher struct{ message.Publisher }

// Close leaves the publisher open: it is not ours.
func (throughPublisher) Close() {}

// Send implements Sender.
func (t throughPublisher) Send(ctx context.Context, topics []string, messages []*message.Message) []error {
	errs := make([]error, len(messages))
	byKey := map[keyed][]int{}
	for i, m := range messages {
		k := keyed{topics[i], m.Metadata[cqrs.HeaderKey]}
		byKey[k] = append(byKey[k], i)
	}
	var wg sync.WaitGroup
	for _, of := range byKey {
		wg.Go(func() {
			for n, i := range of {
				if errs[i] = context.Cause(ctx); errs[i] == nil {
					errs[i] = cqrs.Protect(func() error { return t.Publish(topics[i], messages[i]) })
				}
				if errs[i] == nil {
					continue
				}
				for _, behind := range of[n+1:] {
					errs[behind] = errs[i]
				}
				return
			}
		})
	}
	wg.Wait()
	return errs
}
