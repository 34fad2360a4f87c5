// The order of a key whose messages fail. No message of a key is handled while an earlier one waits for a retry or for a person; other keys go on.
// TestRetryKeepsKeyOrder, TestRetryKeepsKeyOrderOfMessagesInFlight and TestRetryBlocksOneKey show it.

package messaging

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// errKept says that the message was stored, as a dead letter or for a retry, so that it is acknowledged although it was not processed.
var errKept = errors.New("kept")

// KeyOrder keeps the order of keys whose messages fail: it stores a message of a blocked key behind those that wait, and acknowledges it. The
// queue hands it to the same handler later; for that the handler's subscriber must be one of queue.Subscriber, and the queue must run. Add it
// outside DeadLetters and Retry, which store the messages that fail.
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
				// The message before it had not committed when this one started, which may be the reason of the failure.
				msg.SetContext(outer)
				if err := turn.Wait(outer); err != nil {
					return nil, err
				}
			}
		}
	}
}

// redelivered processes a message that the key queue has delivered.
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

// attempt is what is known of a message before it is processed.
type attempt struct {
	failures int  // failed attempts of a message that was stored
	early    bool // the message before it with the same key has not ended yet
}
