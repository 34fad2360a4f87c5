// The order of the messages of a key when a message fails. No message of a key is handled while an earlier message waits for a retry or for an
// operator. Messages of other keys are handled meanwhile. TestRetryKeepsKeyOrder, TestRetryKeepsKeyOrderOfMessagesInFlight and TestRetryBlocksOneKey
// show it.

package messaging

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// errKept says that the message was stored as a dead letter or for a retry: it is acknowledged although it was not processed.
var errKept = errors.New("kept")

// KeyOrder keeps the order of the messages of a key when one of them fails. It stores a message of a blocked key behind the messages that wait, and
// acknowledges it. The queue delivers it to the same handler later. For this, the handler's subscriber must come from queue.Subscriber, and the queue
// must run. Add this middleware outside DeadLetters and Retry, which store the messages that fail.
func KeyOrder(queue KeyQueue, o Options) message.HandlerMiddleware {
	o = o.complete()
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			m := o.Received(msg)
			if redelivery, ok := cqrs.RedeliveryFromContext(msg.Context()); ok {
				return o.redelivered(queue, msg, m, redelivery, next)
			}
			turn, outer := cqrs.TurnFromContext(msg.Context()), msg.Context()
			for {
				early := turn.Look()
				if early && !o.Early(m.Key.Consumer) {
					if err := turn.Wait(outer); err != nil {
						return nil, err
					}
					continue
				}
				enqueued, err := false, error(nil)
				if !cqrs.OrderConfirmed(outer) {
					err = o.keepTrying(outer, func() (err error) {
						enqueued, err = queue.Enqueue(outer, m)
						return err
					}, "look up the key of message "+shownID(msg))
				}
				if err != nil {
					return nil, err
				}
				if enqueued {
					turn.Kept()
					o.OnFailure(m.Key.Consumer, "waiting")
					return nil, nil
				}
				msg.SetContext(context.WithValue(outer, attemptKey{}, attempt{0, early}))
				produced, err := next(msg)
				switch {
				case errors.Is(err, errKept):
					turn.Kept()
					return nil, nil
				case err == nil || !early:
					return produced, err
				}
				// The previous message of the key had not committed when this message started, which may be the cause of the failure.
				msg.SetContext(outer)
				if err := turn.Wait(outer); err != nil {
					return nil, err
				}
			}
		}
	}
}

// redelivered handles a message that the key queue delivers, and removes it from the queue if it was processed.
func (o Options) redelivered(queue KeyQueue, msg *message.Message, m cqrs.Received, at cqrs.Redelivery, next message.HandlerFunc) ([]*message.Message, error) {
	outer := msg.Context()
	msg.SetContext(context.WithValue(outer, attemptKey{}, attempt{at.Attempts, false}))
	produced, err := next(msg)
	switch {
	case errors.Is(err, errKept):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return produced, o.keepTrying(outer, func() error { return queue.Complete(outer, m) }, "remove the handled message "+shownID(msg)+" from the key queue")
}

type attemptKey struct{}

// attempt is passed from KeyOrder to DeadLetters and Retry.
type attempt struct {
	failures int  // failed attempts before, if the key queue delivers the message
	early    bool // the message started before the previous message of its key was done; a failure is retried after that
}
