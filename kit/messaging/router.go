// The router: Watermill's, with one consumer group for each consumer and the kit's middleware in one order. TestHostileRecordsEndAsDeadLetters and the component tests show it.

package messaging

import (
	"context"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// Config is what a Router needs.
type Config struct {
	Prefix    string
	Marshaler Marshaler
	Codecs    []Codec // of other services' messages that may come in other forms than JSON

	// Subscriber makes a subscriber for a group.
	Subscriber func(group string, s Subscription) (message.Subscriber, error)

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

// Subscription is how a consumer receives messages. What is zero is replaced by the default.
type Subscription struct {
	// KeyHeader is the header by which messages are ordered. Default, and for messages without the header: their key.
	KeyHeader string

	// Run is how many messages of a key are delivered at once, each with its cqrs.Turn in its context. Default 1.
	Run int

	// Skip tells by a message's headers whether it need not be delivered. A broker may deliver it all the same. Default: all are needed.
	Skip func(header func(name string) string) bool
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

	sagaGroups map[string]bool    // consumers that are sagas
	ownSagas   map[string]ownSaga // those of them on topics of this service
	inline     []cqrs.InlineConsumer
	commands   map[string]func(*message.Message) *cqrs.InlineCommand // by topic and type
	external   map[string]bool                                       // consumers of other services' topics
	types      map[string]map[string]bool                            // names of the events that a consumer handles
	former     map[string]map[string]string                          // current names of the commands of a consumer, by their former ones
	remote     map[string]bool                                       // those of them whose services answer sagas of this one
	categories map[string]string                                     // of the aggregates that consumers of commands change

	calling map[string]bool // consumers whose handlers call external services

	consumers map[string]bool                      // the handlers that the Add methods have made
	guards    map[string]message.HandlerMiddleware // breakers by the consumers of commands
}

// NewRouter makes a router. The handlers that its Add methods make have this middleware, outermost first:
//
//  1. in flight: the age of the message that is handled
//  2. KeyOrder: a message of a blocked key is stored behind the messages that wait
//  3. DeadLetters: every error and every panic ends here, but for those of a stop, whose messages the broker delivers again
//  4. recognise: messages from outside are checked once, and headers become metadata in the context
//  5. Retry: by the kind of the error, at once or later
//  6. the destination's breaker: inside Retry, which would else count its waiting as an attempt
//  7. the service's own middleware, if it adds any to the message.Router
//  8. observe: log, metric and trace of one attempt
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
	r := &Router{Router: inner, config: c, consumers: map[string]bool{}, guards: map[string]message.HandlerMiddleware{}, sagaGroups: map[string]bool{}, ownSagas: map[string]ownSaga{}, commands: map[string]func(*message.Message) *cqrs.InlineCommand{}, calling: map[string]bool{}, external: map[string]bool{}, remote: map[string]bool{}, types: map[string]map[string]bool{}, former: map[string]map[string]string{}, categories: map[string]string{}}
	o := Options{Received: r.received, Answer: r.answer, Early: func(consumer string) bool { return !r.calling[consumer] }, OnFailure: c.OnFailure, Stopping: c.Stopping, Log: c.Log}
	for _, m := range []message.HandlerMiddleware{
		r.inFlight, r.formerHeaders, KeyOrder(c.KeyQueue, o), DeadLetters(c.KeyQueue, c.UnitOfWork, o), r.recognise, Retry(c.KeyQueue, o), r.breakers,
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
