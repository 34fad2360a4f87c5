// The subscriber of messages that wait, beside the broker's. The messages of a key are handed out one after the other while the key's lease lasts.
// TestRetryKeepsKeyOrderOfMessagesInFlight shows it.

package keyqueue

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Subscriber adds the waiting messages of a consumer to the messages that inner delivers.
func (q *Queue) Subscriber(consumer string, inner message.Subscriber) message.Subscriber {
	return &subscriber{queue: q, consumer: consumer, inner: inner}
}

type subscriber struct {
	queue    *Queue
	consumer string
	inner    message.Subscriber
	feeds    sync.WaitGroup
}

// Subscribe implements message.Subscriber.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := s.inner.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	stopping, stop := context.WithCancel(context.WithoutCancel(ctx))
	messages, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &feed{queue: s.queue, consumer: s.consumer, out: out, stopping: stopping, stop: stop, messages: messages, keys: make(chan struct{}, maxKeys)}
	s.queue.add(f)
	s.feeds.Go(func() {
		defer close(out)
		for msg := range in { // until the inner subscriber is closed and has drained
			out <- msg
		}
		s.queue.drop(f)
		timer := time.AfterFunc(closeGrace, cancel)
		defer timer.Stop()
		f.running.Wait()
		cancel()
	})
	s.feeds.Go(func() {
		select {
		case <-ctx.Done():
			stop()
		case <-stopping.Done():
		}
	})
	return out, nil
}

// Close implements message.Subscriber.
func (s *subscriber) Close() error {
	s.queue.stop(s.consumer)
	err := s.inner.Close()
	s.feeds.Wait()
	return err
}

// handle hands the messages of a leased key to the consumer, one after the other, until one of them has to wait, none is left, or the
// consumer stops.
func (f *feed) handle(key []byte, lease string) {
	pause := time.Duration(0)
	defer func() { f.queue.giveBack(f.consumer, key, lease, pause) }() // nothing, if the lease has ended
	ctx, cancel := context.WithCancel(f.messages)
	defer cancel()
	go f.renew(ctx, key, lease, cancel)
	for range maxInTurn {
		msg, err := f.queue.first(ctx, f.consumer, key, lease)
		if err != nil || msg == nil {
			pause = f.queue.Poll
			return
		}
		select {
		case f.out <- msg:
		case <-f.stopping.Done():
			return
		}
		select {
		case <-msg.Acked():
		case <-msg.Nacked():
			if f.stopping.Err() == nil {
				pause = f.queue.Poll // it could not even be stored: no hot loop
			}
			return
		}
	}
}

// renew renews the lease until ctx is done. If the lease is lost, it cancels the message that is being processed.
func (f *feed) renew(ctx context.Context, key []byte, lease string, lost func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(renewEvery):
		}
		result, err := f.queue.db.ExecContext(ctx, `UPDATE blocked_keys SET due_at = app_clock() + make_interval(secs => $4)
			WHERE consumer = $1 AND key = $2 AND lease = $3`, f.consumer, key, lease, leaseFor.Seconds())
		if err != nil {
			continue // the lease lasts for some more attempts
		}
		if n, err := result.RowsAffected(); err == nil && n == 0 {
			lost()
			return
		}
	}
}
