package messaging

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Drain decorates the subscriber of BROKER=postgres so that closing it finishes the messages in flight. The Kafka subscriber does this by itself.
// Watermill's router cancels its subscriptions as soon as it is closed, and with them the contexts of active handlers; the broker would then deliver
// their messages again. Close of the returned subscriber stops the delivery of new messages, waits until all delivered messages are acknowledged or
// rejected, and then closes the inner subscriber.
//
// Subscribe returns at once. It subscribes in the background and retries until it succeeds, so that a service starts while its broker is unavailable.
func Drain(inner message.Subscriber, logger watermill.LoggerAdapter) message.Subscriber {
	return &drain{inner: inner, logger: logger, closing: make(chan struct{})}
}

type drain struct {
	inner   message.Subscriber
	logger  watermill.LoggerAdapter
	closing chan struct{}
	once    sync.Once
	pumps   sync.WaitGroup
}

// Subscribe implements message.Subscriber.
func (d *drain) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	d.pumps.Go(func() {
		defer close(out) // last: the router takes it as the end of the subscription, and then offsets must be committed
		in := d.connect(ctx, topic)
		if in == nil {
			return
		}
		d.pump(ctx, in, out)
	})
	return out, nil
}

func (d *drain) connect(ctx context.Context, topic string) <-chan *message.Message {
	for {
		in, err := d.inner.Subscribe(context.WithoutCancel(ctx), topic)
		if err == nil {
			return in
		}
		d.logger.Error("Cannot subscribe yet", err, watermill.LogFields{"topic": topic})
		select {
		case <-d.closing:
			return nil
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// pump delivers messages until the subscriber is closed or ctx is done. Then it waits for the delivered messages, closes the inner subscriber, and
// drops, without acknowledgement, the messages that the inner subscriber still holds. The broker delivers the dropped messages again.
func (d *drain) pump(ctx context.Context, in <-chan *message.Message, out chan<- *message.Message) {
	var handed sync.WaitGroup
	stop := func() {
		handed.Wait()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			if err := d.inner.Close(); err != nil {
				d.logger.Error("Cannot close the subscriber", err, nil)
			}
		}()
		for range in { // the broker delivers them again
			continue
		}
		<-closed
	}
	for {
		select {
		case <-d.closing:
			stop()
			return
		case <-ctx.Done():
			stop()
			return
		case msg, ok := <-in:
			if !ok {
				return
			}
			handed.Go(func() {
				select {
				case <-msg.Acked():
				case <-msg.Nacked():
				}
			})
			select {
			case out <- msg:
			case <-d.closing:
				msg.Nack()
			case <-ctx.Done():
				msg.Nack()
			}
		}
	}
}

// Close implements message.Subscriber.
func (d *drain) Close() error {
	d.once.Do(func() { close(d.closing) })
	d.pumps.Wait()
	return d.inner.Close()
}
