package messaging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
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

// A message that fails with an unknown error is attempted maxUnknown times before it becomes a dead letter: maxAtOnce times at once, then
// later.
const (
	maxAtOnce  = 3
	maxUnknown = 8
)

// maxBlocking is how long a message that waits for a lock or for the database may block its partition.
const maxBlocking = 3 * time.Second

type panicked struct {
	value any
	stack string
}

func (p panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

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
}

// onLargeStack grows the stack of a message's goroutine while it is nearly empty. Otherwise the runtime grows and copies it several times
// deeper in the call, which took a fifteenth of a saga's CPU time.
func onLargeStack(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		enlarge(len(msg.Payload))
		return next(msg)
	}
}

//go:noinline
func enlarge(at int) byte {
	if at >= 0 {
		return 0
	}
	var room [20 << 10]byte // the runtime grows a stack at once to what a function says that it may need
	return room[-at%len(room)]
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

// DeadLetters makes a message a dead letter if its handler fails for good: a permanent error, a refusal, a panic, or an error that Retry has
// given up on. The message is acknowledged then. If storing it fails, and when the program stops, the message is delivered again, so it is never
// lost. Add it inside KeyOrder and outside Retry.
//
// The key of the message stays blocked until a person has replayed or dropped the dead letter, with two exceptions. The sender that is
// answered decides by itself. And a message that the domain refuses has no effect that a later message could miss.
func DeadLetters(queue KeyQueue, uow cqrs.UnitOfWork, o Options) message.HandlerMiddleware {
	o = o.complete()
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (produced []*message.Message, err error) {
			defer func() {
				if value := recover(); value != nil {
					err = panicked{value, string(debug.Stack())}
				}
				if at, _ := msg.Context().Value(attemptKey{}).(attempt); err == nil || at.early || errors.Is(err, errKept) || cqrs.KindOf(err) == cqrs.KindShuttingDown {
					return
				}
				m := o.Received(msg)
				o.OnFailure(m.Key.Consumer, "dead")
				if err = o.deadLetter(queue, uow, msg, m, err); err == nil {
					produced, err = nil, errKept
				}
			}()
			return next(msg)
		}
	}
}

func (o Options) deadLetter(queue KeyQueue, uow cqrs.UnitOfWork, msg *message.Message, m cqrs.Received, reason error) error {
	stack := ""
	if p, ok := reason.(panicked); ok { //nolint:errorlint // made one function above, never wrapped
		stack = p.stack
	}
	publish, answered := o.Answer(msg, reason)
	hold := !answered && cqrs.KindOf(reason) != cqrs.KindRefused
	id := ""
	err := o.keepTrying(msg.Context(), func() error {
		alone := cqrs.WithTurn(context.WithoutCancel(msg.Context()), nil) // the next message of the key must not join
		return uow.Within(alone, func(ctx context.Context) (err error) {
			if id, err = queue.DeadLetter(ctx, m, reason.Error(), stack, hold); err != nil || !answered {
				return err
			}
			return publish(ctx)
		})
	}, "store the dead letter of message "+shownID(msg))
	if err == nil {
		o.Log.Error("dead letter", "consumer", m.Key.Consumer, "message_id", shownID(msg), "type", msg.Metadata[cqrs.HeaderType],
			"topic", m.Topic, "error", reason, "dead_letter_id", id, "blocks_key", hold)
	}
	return err
}

// answer publishes to the saga of a command that the command is a dead letter.
func (r *Router) answer(msg *message.Message, reason error) (publish func(ctx context.Context) error, answered bool) {
	event, answered := r.failed(message.HandlerNameFromCtx(msg.Context()), msg, reason)
	return func(ctx context.Context) error { return r.config.Events.Publish(ctx, event) }, answered
}

// failed is the answer to the saga of a command that has become a dead letter.
func (r *Router) failed(consumer string, msg *message.Message, reason error) (cqrs.Event, bool) {
	category, ok := r.categories[consumer]
	if !ok {
		return cqrs.Event{}, false // no command
	}
	meta, err := r.metaOf(consumer, msg)
	if err != nil {
		return cqrs.Event{}, false // the saga is unknown
	}
	delivery := cqrs.Delivery{Consumer: consumer, Meta: meta, Command: true, Category: category, Key: msg.Metadata[cqrs.HeaderKey]}
	text, _, _ := strings.Cut(reason.Error(), "\n")
	return delivery.Answer(cqrs.FailedAnswer{Reason: strings.ToValidUTF8(strings.ReplaceAll(fmt.Sprintf("%.200s", text), "\x00", "\uFFFD"), "\uFFFD")}, r.config.Clock())
}

// keepTrying retries until do succeeds, the service stops, the error is not retryable, or the message's ctx is done: the broker has then
// given the partition to another instance, and waits until this one releases it.
func (o Options) keepTrying(ctx context.Context, do func() error, what string) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil {
			return nil
		}
		if !cqrs.Retryable(err) {
			o.Log.Error("cannot "+what, "error", err)
			return fmt.Errorf("%s: %w: %w", what, context.Canceled, err) // the broker delivers it again
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: the message is delivered again: %w: %w", what, context.Canceled, err)
		}
		o.Log.Warn("cannot "+what+", retrying", "error", err)
		if !o.wait(ctx, backoff(attempt)) {
			return fmt.Errorf("%s: stopping: %w: %w", what, context.Canceled, err)
		}
	}
}

// shownID is a message's id for a log line; an id from outside may be long.
func shownID(msg *message.Message) string {
	const most = 100
	if len(msg.UUID) > most {
		return msg.UUID[:most] + "…"
	}
	return msg.UUID
}

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
				enqueued := false
				err := o.keepTrying(outer, func() (err error) {
					enqueued, err = queue.Enqueue(outer, m)
					return err
				}, "look up the key of message "+shownID(msg))
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

// Retry retries messages by the kind of their error. It calls the handler again at once after a conflict. After another retryable error it calls
// the handler a few times, and then stores the message to be retried later: its key is blocked until then, and other keys are not affected.
// While the database is unavailable and cannot store the message, it waits. It returns permanent errors and refusals at once, and unknown
// errors after 8 attempts; DeadLetters, outside it, stores those messages. It needs KeyOrder outside it.
func Retry(queue KeyQueue, o Options) message.HandlerMiddleware {
	o = o.complete()
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) { return o.retry(queue, msg, next) }
	}
}

func (o Options) retry(queue KeyQueue, msg *message.Message, next message.HandlerFunc) ([]*message.Message, error) {
	m := o.Received(msg)
	at, _ := msg.Context().Value(attemptKey{}).(attempt)
	failures := at.failures
	began := time.Now()
	for attempt := 1; ; attempt++ {
		produced, err := next(msg)
		kind := cqrs.KindOf(err)
		if at.early {
			return produced, err
		}
		switch kind {
		case cqrs.KindNone, cqrs.KindShuttingDown, cqrs.KindPermanent, cqrs.KindRefused:
			return produced, err
		case cqrs.KindUnavailable, cqrs.KindUnknown, cqrs.KindTransient, cqrs.KindConflict:
		}
		if kind == cqrs.KindUnknown && failures >= maxUnknown-maxAtOnce {
			return nil, err
		}
		if kind == cqrs.KindUnavailable || attempt >= maxAtOnce && kind != cqrs.KindConflict || attempt >= maxConflicts || failures > 0 ||
			kind == cqrs.KindTransient && time.Since(began) > maxBlocking {
			pause := backoff(failures + 4)
			o.Log.Warn("retry scheduled", "consumer", m.Key.Consumer, "message_id", shownID(msg), "error", err, "kind", kind.String(), "attempt", failures+1, "delay", pause)
			later := queue.RetryAfter(msg.Context(), m, pause)
			if later == nil {
				o.OnFailure(m.Key.Consumer, "delayed")
				return nil, errKept
			}
			err = later
		}
		o.OnFailure(m.Key.Consumer, "retried")
		o.Log.Warn("retrying", "consumer", m.Key.Consumer, "message_id", shownID(msg), "error", err, "kind", kind.String(), "attempt", attempt)
		if !o.wait(msg.Context(), backoff(attempt)) {
			return nil, fmt.Errorf("stopping: %w: %w", context.Canceled, err)
		}
	}
}

// maxConflicts is the number of immediate retries after a conflict. The unit of work has tried many times before each of them.
const maxConflicts = 5

// backoff grows from 50 ms to 10 s. Half of it is random, so that many messages do not return at once.
func backoff(attempt int) time.Duration {
	d := min(50*time.Millisecond<<min(attempt-1, 12), 10*time.Second)
	return d/2 + rand.N(d/2+1) //nolint:gosec // chance, not secrecy
}

// wait returns false if the service stops or ctx is done first.
func (o Options) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-o.Stopping:
		return false
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
