package runner

import (
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
)

// addOwn adds the service's own middleware and handlers to the message router.
func (s *Instance) addOwn() error {
	s.router.AddMiddleware(s.def.Middleware...)
	if s.def.Router == nil {
		return nil
	}
	return s.def.Router(&s.kit, s.router.Router)
}

// Publisher is the publisher of the outbox. It writes in the unit of work of a message's context. A handler that uses Middleware has a unit of work.
func (k *Kit) Publisher() message.Publisher { return k.instance.core.publisher }

// Inbox is the inbox that Middleware uses, for handlers that use only messaging.Inbox or messaging.CommandInbox.
func (k *Kit) Inbox() cqrs.Inbox { return k.instance.core.uow }

// Subscriber returns the subscriber of a consumer, which is a consumer group of the broker. It delivers messages of different keys concurrently and
// messages of one key in order, including messages that the key queue redelivers. The handler must have the name of the consumer.
func (k *Kit) Subscriber(consumer string) (message.Subscriber, error) {
	inner, err := k.instance.broker.Subscriber(consumer, messaging.Subscription{})
	if err != nil {
		return nil, err
	}
	return k.instance.core.keyQueue.Subscriber(consumer, inner), nil
}

// Middleware returns the kit's middleware for handlers that Service.Router adds: KeyOrder, DeadLetters, Retry and Inbox of package messaging. The
// handler must use a subscriber that Subscriber returned.
func (k *Kit) Middleware() []message.HandlerMiddleware {
	s := k.instance
	return messaging.Middleware(s.core.keyQueue, s.core.uow, messaging.Options{OnFailure: s.telemetry.Failed, Stopping: s.stopping, Log: s.log})
}
