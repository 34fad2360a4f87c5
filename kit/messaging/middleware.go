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

// KeyQueue stores the messages of keys whose messages fail, keeps their order, and stores dead letters. A message that the queue delivers has a
// cqrs.Redelivery in its context; a message that the broker delivers has none.
type KeyQueue interface {
	// Enqueue stores a message if its key is blocked. It returns false if the key is not blocked: the message may be handled.
	Enqueue(ctx context.Context, m cqrs.Received) (enqueued bool, err error)

	// RetryAfter stores a message that failed. The queue delivers it to its consumer again after the delay.
	RetryAfter(ctx context.Context, m cqrs.Received, delay time.Duration) error

	// DeadLetter stores a message as a dead letter, in the unit of work of ctx. If hold is true, its key stays blocked until the dead letter is
	// replayed or dropped. DeadLetter accepts any bytes in the message.
	DeadLetter(ctx context.Context, m cqrs.Received, reason, stack string, hold bool) (id string, err error)

	// Complete removes a processed message from the queue.
	Complete(ctx context.Context, m cqrs.Received) error

	// Subscriber returns a subscriber that delivers the messages of inner and the consumer's messages that wait in the queue.
	Subscriber(consumer string, inner message.Subscriber) message.Subscriber
}

// Options are the options of KeyOrder, DeadLetters and Retry. A zero field has the default that its comment names.
type Options struct {
	// Received returns a message as it was received, with its consumer and its key. Default: the consumer is the name of the router's handler, and
	// the key is the header cqrs.HeaderKey; a message without a key waits for no other message.
	Received func(msg *message.Message) cqrs.Received

	// Early tells whether a consumer's message may start before the previous messages with the same key are done. Return true only if the consumer's
	// handlers have no effects outside their unit of work. Default: false for every consumer.
	Early func(consumer string) bool

	// Answer tells the sender of a message that the message is a dead letter. It returns a function that publishes the answer, which DeadLetters
	// calls in the unit of work that stores the dead letter. The key of an answered message is not blocked. Answered is false if no sender waits for
	// an answer. Optional.
	Answer func(msg *message.Message, reason error) (publish func(ctx context.Context) error, answered bool)

	// OnFailure is called after each failed attempt with the result: "retried", "delayed", "dead", or "waiting" (behind a blocked key). Optional.
	OnFailure func(consumer, what string)

	// Stopping is closed when the program begins to stop: a message that waits for an attempt is then left to the broker, which delivers it again.
	// Optional.
	Stopping <-chan struct{}

	// Log receives the failures. Default: slog.Default.
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

// received is the default of Options.Received. It works in any Watermill program.
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

// received returns a message as it was received, with the key that keyOf gives.
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

// keyOf returns the key by which a consumer's messages are ordered. A message without a key waits for no other message.
func (r *Router) keyOf(consumer string, msg *message.Message) cqrs.MessageKey {
	k := cqrs.MessageKey{Consumer: consumer, Key: msg.Metadata[cqrs.HeaderKey]}
	if id := msg.Metadata[cqrs.HeaderSagaID]; id != "" && r.sagaGroups[consumer] {
		k.Key = id // the events of a saga have the keys of many aggregates
	}
	if k.Key == "" {
		k.Key = "message " + msg.UUID
	}
	return k
}

// formerHeaders renames the headers of older versions before other middleware reads them.
func (r *Router) formerHeaders(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		r.renameHeaders(message.HandlerNameFromCtx(msg.Context()), msg)
		return next(msg)
	}
}

// renameHeaders renames headers of older versions to their current names, on topics where saga headers are used.
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

// inFlight calls Config.InFlight for a message that is being processed. It does nothing for a message without a time.
func (r *Router) inFlight(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if at, err := time.Parse(time.RFC3339Nano, msg.Metadata.Get(cqrs.HeaderTime)); err == nil {
			defer r.config.InFlight(message.HandlerNameFromCtx(msg.Context()), at)()
		}
		return next(msg)
	}
}

// recognise checks a message and puts the metadata from its headers into the context.
func (r *Router) recognise(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		consumer := message.HandlerNameFromCtx(msg.Context())
		if r.external[consumer] {
			if msg.Payload == nil {
				r.config.OnFailure(consumer, "tombstone") // another service deleted the key from its compacted topic; there is no event
				return nil, nil
			}
			if name := msg.Metadata[cqrs.HeaderType]; name != "" && !r.types[consumer][name] {
				return nil, nil // an event type that this consumer does not handle
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
