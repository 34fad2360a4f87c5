// The router: Watermill's router with one consumer group for each consumer, and the middleware of this library in a fixed order.
// TestHostileRecordsEndAsDeadLetters and the component tests show it.

package messaging

import (
	"context"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// Config is the configuration of a Router. Fields are required unless their comments say otherwise.
type Config struct {
	Prefix    string
	Marshaler Marshaler
	Codecs    []Codec // of messages of other services in formats other than JSON

	// Subscriber makes the subscriber of a consumer group.
	Subscriber func(group string, s Subscription) (message.Subscriber, error)

	Inbox      cqrs.Inbox
	UnitOfWork cqrs.UnitOfWork
	Projecting cqrs.UnitOfWork // the unit of work in which projections write
	Events     Events
	KeyQueue   KeyQueue
	Decorate   cqrs.Decorator
	Clock      cqrs.Clock
	Log        *slog.Logger
	Watermill  watermill.LoggerAdapter

	// Stopping is closed when the service begins to stop. A message that waits for an attempt is then left to the broker, which delivers it again.
	Stopping <-chan struct{}

	// Breakers are the circuit breakers by destination, for destinations whose handlers call external services. A destination needs none.
	Breakers map[string]message.HandlerMiddleware

	// OnFailure is called after each failed attempt with the result: "retried", "delayed", "dead", or "waiting" (behind a blocked key), and with
	// "tombstone" for a record without a payload on a topic of another service. Optional.
	OnFailure func(consumer, what string)

	// InFlight is called when a consumer starts to process a message, with the message's time. The returned function is called when the processing
	// ends. Optional.
	InFlight func(consumer string, at time.Time) (done func())
}

// Subscription says how a consumer receives messages. A zero field has the default that its comment names.
type Subscription struct {
	// KeyHeader is the name of the header by which messages are ordered. Default: the message key, which is also used for messages without the
	// header.
	KeyHeader string

	// Run is the maximum number of messages of a key that are delivered at once, each with its cqrs.Turn in its context. Default: 1.
	Run int

	// Skip tells by a message's headers whether the message need not be delivered. A broker may ignore Skip and deliver the message. Default: no
	// message is skipped.
	Skip func(header func(name string) string) bool
}

// Events is the event bus.
type Events interface {
	Publish(ctx context.Context, event any) error
}

// Router is a message.Router that runs handlers of commands, sagas, projections and event consumers. Each consumer is a group of Watermill's
// EventGroupProcessor: it has one subscription, and one handler for each type of message, which is found by the stored name of the type.
type Router struct {
	*message.Router
	config Config

	sagaGroups map[string]bool    // consumers of sagas
	ownSagas   map[string]ownSaga // consumers of sagas on topics of this service
	inline     []cqrs.InlineConsumer
	commands   map[string]func(*message.Message) *cqrs.InlineCommand // by topic and type
	external   map[string]bool                                       // consumers of topics of other services
	types      map[string]map[string]bool                            // stored names of the messages that a consumer handles
	former     map[string]map[string]string                          // current names of the commands of a consumer, by former name
	remote     map[string]bool                                       // consumers in external whose service takes part in sagas of this service
	categories map[string]string                                     // types of aggregates that consumers of commands change

	calling map[string]bool // consumers with a handler that calls an external service

	consumers map[string]bool                      // names of the handlers that the Add methods have made
	guards    map[string]message.HandlerMiddleware // circuit breakers by consumer of commands
}

// NewRouter makes a router. The handlers that its Add methods make have this middleware, outermost first:
//
//  1. in flight: reports the age of the message that is being handled
//  2. KeyOrder: stores a message of a blocked key behind the messages that wait
//  3. DeadLetters: handles every error and panic, except the errors of a stop, whose messages the broker delivers again
//  4. recognise: checks the message once, and puts the metadata from its headers into the context
//  5. Retry: retries by the kind of the error, at once or later
//  6. the destination's circuit breaker: inside Retry, which would otherwise count the wait for the breaker as an attempt
//  7. the service's own middleware, if it adds any to the message.Router
//  8. observe: logs, counts and traces one attempt
//
// Handlers that are added to the embedded message.Router have none of this middleware, so that any handler of Watermill's can be added unchanged.
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

// own applies a middleware only to the handlers that the Add methods have made. Handlers that the service adds to the message.Router have only the
// service's middleware.
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

// breakers applies the circuit breaker of a destination to the consumer of its commands.
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
