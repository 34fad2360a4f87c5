package messaging

import (
	"context"
	"fmt"
	"reflect"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// listen adds a consumer group that handles each type of event with its endpoint. Prefix is the prefix of the topic.
func (r *Router) listen(group, prefix, category string, m Marshaler, handlers map[reflect.Type]cqrs.Endpoint) error {
	if len(handlers) == 0 { // Watermill refuses a group without handlers. The scaffold of a new projection has none.
		return nil
	}
	names := map[string]bool{}
	for goType := range handlers {
		t, ok := m.types.Of(reflect.Zero(goType).Interface())
		if !ok {
			return fmt.Errorf("%s listens to %s: %w", group, goType, aggregate.ErrUnknownType)
		}
		names[t.Name] = true
	}
	r.types[group] = names
	processor, err := wcqrs.NewEventGroupProcessorWithConfig(r.Router, wcqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(wcqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
			return EventTopic(prefix, category), nil
		},
		SubscriberConstructor: func(wcqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return r.subscriber(group)
		},
		AckOnUnknownEvent: true, // an event type that this group does not handle; unregistered types were refused before
		Marshaler:         inspecting(m, r.external[group]), Logger: r.config.Watermill,
	})
	if err != nil {
		return err
	}
	var typed []wcqrs.GroupEventHandler
	for goType, handle := range handlers {
		typed = append(typed, typedHandler{goType, func(ctx context.Context, body any) error {
			_, err := handle(ctx, cqrs.Event{
				Body: body, Meta: cqrs.MetaFromContext(ctx), Category: category, Key: wcqrs.OriginalMessageFromCtx(ctx).Metadata.Get(cqrs.HeaderKey),
			})
			return err
		}})
	}
	r.consumers[group] = true
	return processor.AddHandlersGroup(group, typed...)
}

// maxTogether is the maximum number of waiting messages of a key that are delivered at once and may share one unit of work.
const maxTogether = 64

// subscriber makes the subscriber of a consumer. It delivers the messages of the broker and those that wait in the key queue for a retry.
func (r *Router) subscriber(consumer string) (message.Subscriber, error) {
	subscription := Subscription{Run: maxTogether}
	if r.sagaGroups[consumer] {
		subscription.KeyHeader = cqrs.HeaderSagaID
	}
	if s, ok := r.ownSagas[consumer]; ok {
		subscription.Skip = func(header func(name string) string) bool { return r.skips(s, header) }
	}
	inner, err := r.config.Subscriber(consumer, subscription)
	if err != nil {
		return nil, err
	}
	return r.config.KeyQueue.Subscriber(consumer, inner), nil
}

// Topics returns the names of the service's own topics: the command topics of the handlers' destinations, and the event topics of the categories.
// Topics of other services are not included.
func Topics(prefix string, handlers []cqrs.Handler, categories ...string) []string {
	var topics []string
	seen := map[string]bool{}
	for _, h := range handlers {
		if h.Service == "" && !seen[h.Destination] {
			seen[h.Destination] = true
			topics = append(topics, CommandTopic(prefix, h.Destination))
		}
	}
	for _, category := range categories {
		topics = append(topics, EventTopic(prefix, category))
	}
	return topics
}

// Source is one type of aggregate whose events a saga handles.
type Source struct {
	Category string
	Types    cqrs.EventTypes // the events that the saga waits for

	// For an aggregate of another service: the service's name, the prefix of its topics, and its event types that are registered here.
	Service, Prefix string
	Known           aggregate.Types
}

// AddSaga adds a consumer for each source of a saga's events.
func (r *Router) AddSaga(s *saga.Saga, manager *manager.Manager, sources []Source) error {
	for _, source := range sources {
		group, prefix, marshaler := r.config.Prefix+".saga."+s.Name()+"."+source.Category, r.config.Prefix, r.config.Marshaler
		if source.Service != "" {
			group = r.config.Prefix + ".saga." + s.Name() + "." + source.Service + "." + source.Category
			r.external[group], r.remote[group] = true, true
			prefix, marshaler = source.Prefix, NewMarshaler(source.Known, "").In(r.config.Codecs...)
		}
		r.sagaGroups[group] = true
		react := r.config.Decorate(group, func(ctx context.Context, e any) (any, error) {
			return manager.Receive(ctx, r.config.Inbox, group, s, e.(cqrs.Event))
		})
		if source.Service == "" {
			r.addInline(group, s, manager, source)
		}
		handlers := map[reflect.Type]cqrs.Endpoint{}
		for _, t := range source.Types {
			handlers[t] = react
		}
		if err := r.listen(group, prefix, source.Category, marshaler, handlers); err != nil {
			return err
		}
	}
	return nil
}

// ProjectionConsumer returns the name of the consumer that updates a projection.
func ProjectionConsumer(prefix, projection string) string {
	return prefix + ".projection." + projection
}

// AddProjection adds the consumer that updates a projection. Two handlers for the same type of event are an error.
func (r *Router) AddProjection(p cqrs.Projection) error {
	group := ProjectionConsumer(r.config.Prefix, p.Name)
	handlers := map[reflect.Type]cqrs.Endpoint{}
	for _, on := range p.Handlers() {
		handlers[on.Type] = r.config.Decorate(group, func(ctx context.Context, e any) (any, error) {
			return nil, r.config.Projecting.Within(ctx, func(ctx context.Context) error { return on.Handle(ctx, e.(cqrs.Event)) })
		})
	}
	if len(handlers) < len(p.On) {
		return fmt.Errorf("projection %s handles a type of event twice", p.Name)
	}
	return r.listen(group, r.config.Prefix, p.Category, r.config.Marshaler, handlers)
}

// AddConsumer adds a consumer of another service's events. Prefix is the prefix of that service's topics.
func (r *Router) AddConsumer(a cqrs.EventConsumer, prefix string) error {
	group := r.config.Prefix + ".reaction." + a.Name
	r.external[group] = true
	var types []aggregate.Type
	handlers := map[reflect.Type]cqrs.Endpoint{}
	for _, on := range a.On {
		types = append(types, on.Type)
		handlers[on.EventHandler.Type] = r.config.Decorate(group, func(ctx context.Context, e any) (any, error) {
			return r.config.Inbox.Handle(ctx, cqrs.Delivery{Consumer: group, Meta: cqrs.MetaFromContext(ctx)}, func(ctx context.Context) error {
				return on.Handle(ctx, e.(cqrs.Event))
			})
		})
	}
	return r.listen(group, prefix, a.Category, NewMarshaler(aggregate.TypesOf(types...), "").In(r.config.Codecs...), handlers)
}
