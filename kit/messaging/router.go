package messaging

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Config is what a Router needs.
type Config struct {
	Prefix    string
	Marshaler Marshaler
	Codecs    []Codec // of other services' messages that may come in other forms than JSON

	// Subscriber makes a subscriber for a group. Messages with the header keyHeader are ordered by it, others by their key. Up to run
	// messages of a key are delivered at once.
	Subscriber func(group, keyHeader string, run int) (message.Subscriber, error)

	Inbox      cqrs.Inbox
	UnitOfWork cqrs.UnitOfWork
	Projecting cqrs.UnitOfWork // in which projections write
	Events     Events
	KeyQueue   KeyQueue
	Decorate   cqrs.Decorator
	Clock      cqrs.Clock
	Log        *slog.Logger
	Watermill  watermill.LoggerAdapter

	// Stopping is closed when the service begins to stop. Everything that waits for a retry gives up then.
	Stopping <-chan struct{}

	// Breakers are the circuit breakers of destinations whose handlers call external services.
	Breakers map[string]message.HandlerMiddleware

	// OnFailure is called for every failed attempt with the result: retried, delayed, dead, or waiting behind a blocked key. Optional.
	OnFailure func(consumer, what string)

	// InFlight is called when a consumer starts to process a message, with the message's time; done is called at the end. Optional.
	InFlight func(consumer string, at time.Time) (done func())
}

// Events is the event bus.
type Events interface {
	Publish(ctx context.Context, event any) error
}

// Router is a message.Router that runs handlers of commands, sagas, projections and event consumers. Each consumer is a group of Watermill's
// EventGroupProcessor: one subscription, and one handler for each type of message, which is found by the message's stored name.
type Router struct {
	*message.Router
	config Config

	sagaGroups map[string]bool            // consumers that are sagas
	external   map[string]bool            // consumers of other services' topics
	types      map[string]map[string]bool // names of the events that a consumer handles
	remote     map[string]bool            // those of them whose services answer sagas of this one
	categories map[string]string          // of the aggregates that consumers of commands change

	calling map[string]bool // consumers whose handlers call external services

	consumers map[string]bool                      // the handlers that the Add methods have made
	guards    map[string]message.HandlerMiddleware // breakers by the consumers of commands
}

// NewRouter makes a router. The handlers that its Add methods make have this middleware, outermost first:
//
//  1. a large stack, for all of it
//  2. in flight: the age of the message that is handled
//  3. KeyOrder: a message of a blocked key is stored behind the messages that wait
//  4. DeadLetters: every error and every panic ends here, but for those of a stop, whose messages the broker delivers again
//  5. recognise: messages from outside are checked once, and headers become metadata in the context
//  6. Retry: by the kind of the error, at once or later
//  7. the destination's breaker: inside Retry, which would else count its waiting as an attempt
//  8. the service's own middleware, if it adds any to the message.Router
//  9. observe: log, metric and trace of one attempt
//
// Handlers that are added to the message.Router itself have none of it, so that any handler of Watermill's can be added unchanged.
func NewRouter(c Config) (*Router, error) {
	inner, err := message.NewRouter(message.RouterConfig{CloseTimeout: 9 * time.Second}, c.Watermill)
	if err != nil {
		return nil, err
	}
	if c.OnFailure == nil {
		c.OnFailure = func(string, string) {}
	}
	if c.InFlight == nil {
		c.InFlight = func(string, time.Time) func() { return func() {} }
	}
	r := &Router{Router: inner, config: c, consumers: map[string]bool{}, guards: map[string]message.HandlerMiddleware{}, sagaGroups: map[string]bool{}, calling: map[string]bool{}, external: map[string]bool{}, remote: map[string]bool{}, types: map[string]map[string]bool{}, categories: map[string]string{}}
	o := Options{Received: r.received, Answer: r.answer, Early: func(consumer string) bool { return !r.calling[consumer] }, OnFailure: c.OnFailure, Stopping: c.Stopping, Log: c.Log}
	for _, m := range []message.HandlerMiddleware{
		onLargeStack, r.inFlight, r.formerHeaders, KeyOrder(c.KeyQueue, o), DeadLetters(c.KeyQueue, c.UnitOfWork, o), r.recognise, Retry(c.KeyQueue, o), r.breakers,
	} {
		inner.AddMiddleware(r.own(m))
	}
	return r, nil
}

// own applies a middleware to the handlers that the Add methods have made. Handlers that the service adds to the message.Router have the
// service's middleware only.
func (r *Router) own(m message.HandlerMiddleware) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		with := m(next)
		return func(msg *message.Message) ([]*message.Message, error) {
			if r.consumers[message.HandlerNameFromCtx(msg.Context())] {
				return with(msg)
			}
			return next(msg)
		}
	}
}

// breakers applies the breakers of destinations to the consumers of their commands.
func (r *Router) breakers(next message.HandlerFunc) message.HandlerFunc {
	guarded := map[string]message.HandlerFunc{}
	for consumer, guard := range r.guards {
		guarded[consumer] = guard(next)
	}
	return func(msg *message.Message) ([]*message.Message, error) {
		if handle, ok := guarded[message.HandlerNameFromCtx(msg.Context())]; ok {
			return handle(msg)
		}
		return next(msg)
	}
}

// listen adds a group that handles events, each by the endpoint for its type; prefix is that of their topics.
func (r *Router) listen(group, prefix, category string, m Marshaler, handlers map[reflect.Type]cqrs.Endpoint) error {
	if len(handlers) == 0 { // Watermill refuses a group without handlers. A projection that was begun just now has none yet.
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
		AckOnUnknownEvent: true, // of a type that this group does not handle; unknown types were refused before
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

// maxTogether is how many messages of a key that have queued up are handled together, in one unit of work.
const maxTogether = 64

// subscriber makes the subscriber of a consumer: messages of the broker, and messages that wait for a retry.
func (r *Router) subscriber(consumer string) (message.Subscriber, error) {
	header := ""
	if r.sagaGroups[consumer] {
		header = cqrs.HeaderSagaID
	}
	inner, err := r.config.Subscriber(consumer, header, maxTogether)
	if err != nil {
		return nil, err
	}
	return r.config.KeyQueue.Subscriber(consumer, inner), nil
}

// Topics lists every topic that the service reads or writes.
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

// Source is a type of aggregate whose events a saga handles.
type Source struct {
	Category string
	Types    cqrs.EventTypes // those that the saga waits for

	// Of another service: its name, the prefix of its topics, and what it says that is known here.
	Service, Prefix string
	Known           aggregate.Types
}

// AddSaga adds the consumers of a saga.
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

// ProjectionConsumer is the name of the consumer that builds a projection.
func ProjectionConsumer(prefix, projection string) string {
	return prefix + ".projection." + projection
}

// AddProjection adds the consumer of a projection.
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

// AddConsumer adds a consumer of another service's events. Prefix is that of its topics.
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
