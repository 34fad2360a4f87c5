package messaging

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/kit/cqrs"
)

// KeyQueue keeps the order of keys whose messages fail, and stores dead letters. A message that the queue delivers, and not the broker, has a
// cqrs.Redelivery in its context.
type KeyQueue interface {
	// Enqueue stores a message if its key is blocked. False: it may be handled.
	Enqueue(ctx context.Context, m cqrs.Received) (enqueued bool, err error)

	// RetryAfter stores a message that failed; it is handed to its consumer again after a delay.
	RetryAfter(ctx context.Context, m cqrs.Received, delay time.Duration) error

	// DeadLetter stores a message as a dead letter in the unit of work of ctx. Hold says that its key stays blocked until the dead letter is
	// replayed or dropped. The bytes of the message cannot make it fail.
	DeadLetter(ctx context.Context, m cqrs.Received, reason, stack string, hold bool) (id string, err error)

	// Complete removes a processed message.
	Complete(ctx context.Context, m cqrs.Received) error

	// Subscriber adds the messages of a consumer that wait in the queue to those that inner delivers.
	Subscriber(consumer string, inner message.Subscriber) message.Subscriber
}

// Options of KeyOrder, DeadLetters and Retry. What is zero is replaced by the default.
type Options struct {
	// Received returns a message as it was received, with its consumer and its key. Default: the consumer is the name of the router's handler,
	// the key is the metadata cqrs.HeaderKey; a message without a key waits for no other message.
	Received func(msg *message.Message) cqrs.Received

	// Early tells whether a consumer's messages may start before the messages before them with the same key have ended: all that their handlers do must
	// be done in a unit of work. Default: none may.
	Early func(consumer string) bool

	// Answer returns the event that tells the sender that its message is a dead letter; publish publishes it in the unit of work that stores the
	// dead letter. The key of an answered message is not blocked. False: no sender waits for an answer. Optional.
	Answer func(msg *message.Message, reason error) (publish func(ctx context.Context) error, answered bool)

	// OnFailure is called for every failed attempt with the result: retried, delayed, dead, or waiting behind a blocked key. Optional.
	OnFailure func(consumer, what string)

	// Stopping is closed when the program begins to stop: a message that waits for a retry is then redelivered later. Optional.
	Stopping <-chan struct{}

	// Log is the logger of failures. Default: slog.Default.
	Log *slog.Logger
}

func (o Options) complete() Options {
	if o.Received == nil {
		o.Received = received
	}
	if o.Early == nil {
		o.Early = func(string) bool { return false }
	}
	if o.Answer == nil {
		o.Answer = func(*message.Message, error) (func(context.Context) error, bool) { return nil, false }
	}
	if o.OnFailure == nil {
		o.OnFailure = func(string, string) {}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// received returns a message of any Watermill program as it was received.
func received(msg *message.Message) cqrs.Received {
	key := msg.Metadata[cqrs.HeaderKey]
	if key == "" {
		key = "message " + msg.UUID
	}
	return cqrs.Received{
		Key:   cqrs.MessageKey{Consumer: message.HandlerNameFromCtx(msg.Context()), Key: key},
		Topic: message.SubscribeTopicFromCtx(msg.Context()), ID: msg.UUID, Headers: msg.Metadata, Payload: msg.Payload,
	}
}

// received returns a message as it was received, with its key.
func (r *Router) received(msg *message.Message) cqrs.Received {
	m := cqrs.Received{
		Key: r.keyOf(message.HandlerNameFromCtx(msg.Context()), msg), Topic: message.SubscribeTopicFromCtx(msg.Context()), ID: msg.UUID,
		Headers: msg.Metadata, Payload: msg.Payload,
	}
	if r.external[m.Key.Consumer] {
		m.Source = msg.Metadata[cqrs.HeaderSource]
	}
	return m
}

// keyOf is the key by which a message is ordered. A message without a key waits for no other message.
func (r *Router) keyOf(consumer string, msg *message.Message) cqrs.MessageKey {
	k := cqrs.MessageKey{Consumer: consumer, Key: msg.Metadata[cqrs.HeaderKey]}
	if id := msg.Metadata[cqrs.HeaderSagaID]; id != "" && r.sagaGroups[consumer] {
		k.Key = id // a saga's events have the keys of many aggregates
	}
	if k.Key == "" {
		k.Key = "message " + msg.UUID
	}
	return k
}

// formerHeaders renames the headers of older versions before any other middleware reads them.
func (r *Router) formerHeaders(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		r.renameHeaders(message.HandlerNameFromCtx(msg.Context()), msg)
		return next(msg)
	}
}

// renameHeaders gives headers of older versions their current names, on topics where they are used.
func (r *Router) renameHeaders(consumer string, msg *message.Message) {
	if r.external[consumer] && !r.remote[consumer] {
		return
	}
	for former, today := range cqrs.FormerHeaders {
		if value, ok := msg.Metadata[former]; ok && msg.Metadata[today] == "" {
			msg.Metadata[today] = value
			delete(msg.Metadata, former)
		}
	}
	if name, renamed := r.former[consumer][msg.Metadata[cqrs.HeaderType]]; renamed {
		msg.Metadata[cqrs.HeaderType] = name
	}
}

// inFlight reports messages that are being processed. A message without a time is not reported.
func (r *Router) inFlight(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if at, err := time.Parse(time.RFC3339Nano, msg.Metadata.Get(cqrs.HeaderTime)); err == nil {
			defer r.config.InFlight(message.HandlerNameFromCtx(msg.Context()), at)()
		}
		return next(msg)
	}
}

// recognise checks messages from outside, and reads the headers into the context.
func (r *Router) recognise(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		consumer := message.HandlerNameFromCtx(msg.Context())
		if r.external[consumer] {
			if msg.Payload == nil {
				r.config.OnFailure(consumer, "tombstone") // another service has compacted its topic; no event has happened
				return nil, nil
			}
			if name := msg.Metadata[cqrs.HeaderType]; name != "" && !r.types[consumer][name] {
				return nil, nil // an event that this consumer does not handle
			}
		} else if err := r.config.Marshaler.known(msg); err != nil {
			return nil, err
		} else if _, commands := r.categories[consumer]; commands && !r.types[consumer][msg.Metadata[cqrs.HeaderType]] {
			return nil, fmt.Errorf("%s is no command for %s: %w", msg.Metadata[cqrs.HeaderType], strings.TrimPrefix(consumer, r.config.Prefix+".commands."), cqrs.ErrPermanent)
		}
		meta, err := r.metaOf(consumer, msg)
		if err != nil {
			return nil, err
		}
		ctx := otel.GetTextMapPropagator().Extract(msg.Context(), propagation.MapCarrier(msg.Metadata))
		msg.SetContext(cqrs.WithMeta(ctx, meta))
		return next(msg)
	}
}
