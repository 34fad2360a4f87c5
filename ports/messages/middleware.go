package messages

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/app"
)

// Letters keeps dead letters.
type Letters interface {
	Put(ctx context.Context, l app.DeadLetter) error
}

// maxUnknown is how often an error that nobody foresaw is retried before the message is dead.
const maxUnknown = 5

type panicked struct {
	value any
	stack string
}

func (p panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// deadLetters keeps what cannot be handled. If even that fails, the message goes back to Kafka: it is never lost.
func (r *Router) deadLetters(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (produced []*message.Message, err error) {
		defer func() {
			if value := recover(); value != nil {
				err = panicked{value, string(debug.Stack())}
			}
			if err == nil || app.KindOf(err) == app.Stopping {
				return
			}
			consumer := message.HandlerNameFromCtx(msg.Context())
			r.config.OnFailure(consumer, "dead")
			err = r.bury(msg, consumer, err)
		}()
		return next(msg)
	}
}

func (r *Router) bury(msg *message.Message, consumer string, reason error) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	now := r.config.Clock().UTC()
	attempts, _ := strconv.Atoi(msg.Metadata.Get(app.HeaderAttempt)) // what is wrong with the header may be the reason
	letter := app.DeadLetter{
		ID: id.String(), Consumer: consumer, MessageID: msg.UUID, Topic: message.SubscribeTopicFromCtx(msg.Context()),
		Key: msg.Metadata.Get(app.HeaderKey), Headers: msg.Metadata, Payload: msg.Payload, Reason: reason.Error(), Attempts: attempts + 1,
		First: now, Last: now,
	}
	if p, ok := reason.(panicked); ok { //nolint:errorlint // made two functions above, never wrapped
		letter.Stack = p.stack
	}
	r.config.Log.Error("message is dead", "consumer", consumer, "message", msg.UUID, "type", msg.Metadata.Get(app.HeaderType),
		"topic", letter.Topic, "reason", reason, "letter", letter.ID)
	ctx := context.WithoutCancel(msg.Context())
	for attempt := 1; ; attempt++ {
		if err := r.config.Letters.Put(ctx, letter); err == nil {
			return nil
		} else if !r.wait(backoff(attempt)) {
			return fmt.Errorf("keep the dead letter of message %s: %w", msg.UUID, err)
		}
	}
}

type keyKey struct{}

func keyOf(ctx context.Context) string {
	key, _ := ctx.Value(keyKey{}).(string)
	return key
}

// recognise reads the headers into the context.
func (r *Router) recognise(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if err := r.config.Marshaler.known(msg); err != nil {
			return nil, err
		}
		meta, err := metaOf(msg)
		if err != nil {
			return nil, err
		}
		ctx := otel.GetTextMapPropagator().Extract(msg.Context(), propagation.MapCarrier(msg.Metadata))
		ctx = context.WithValue(app.WithMeta(ctx, meta), keyKey{}, msg.Metadata.Get(app.HeaderKey))
		msg.SetContext(ctx)
		return next(msg)
	}
}

// retry decides by the kind of an error what becomes of the message. While the store is away there is nothing better to do
// than to wait, for nothing else can be handled either. When a service outside is away, only its own commands suffer: such
// a message goes back to the outbox, to come again later, and its partition goes on.
func (r *Router) retry(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		consumer := message.HandlerNameFromCtx(msg.Context())
		for attempt, unknown := 1, 0; ; attempt++ {
			produced, err := next(msg)
			kind := app.KindOf(err)
			log := r.config.Log.With("consumer", consumer, "message", msg.UUID, "attempt", attempt, "kind", kind.String())
			switch kind {
			case app.None, app.Stopping, app.Poison, app.Refused:
				return produced, err
			case app.Down:
				r.config.OnFailure(consumer, "delayed")
				return nil, r.later(msg, log, err)
			case app.Unknown:
				if unknown++; unknown == maxUnknown {
					return nil, err
				}
			case app.Conflict, app.Transient:
			}
			r.config.OnFailure(consumer, "retried")
			log.Warn("retrying", "error", err)
			if !r.wait(backoff(attempt)) {
				return nil, fmt.Errorf("stopping: %w: %w", context.Canceled, err)
			}
		}
	}
}

// later puts the message into the outbox again, due after a pause that grows with its attempts.
func (r *Router) later(msg *message.Message, log *slog.Logger, reason error) error {
	attempts := app.MetaOf(msg.Context()).Attempt + 1
	pause := backoff(attempts + 3)
	again := msg.Copy()
	again.Metadata[app.HeaderAttempt] = strconv.Itoa(attempts)
	again.Metadata[app.HeaderDue] = stamp(r.config.Clock().Add(pause))
	topic := message.SubscribeTopicFromCtx(msg.Context())
	log.Warn("comes again later", "in", pause, "failures", attempts, "error", reason)
	for attempt := 1; ; attempt++ {
		err := r.config.UnitOfWork.Within(msg.Context(), func(ctx context.Context) error {
			again.SetContext(ctx)
			return r.config.Publisher.Publish(topic, again)
		})
		if err == nil {
			return nil
		}
		if !r.wait(backoff(attempt)) {
			return fmt.Errorf("stopping: %w: %w", context.Canceled, err)
		}
	}
}

// backoff grows from 50 ms to 10 s; half of it is chance, so that many do not come back at once.
func backoff(attempt int) time.Duration {
	d := min(50*time.Millisecond<<min(attempt-1, 12), 10*time.Second)
	return d/2 + rand.N(d/2+1) //nolint:gosec // chance, not secrecy
}

// wait returns false if the service stops meanwhile.
func (r *Router) wait(d time.Duration) bool {
	select {
	case <-r.config.Stopping:
		return false
	case <-time.After(d):
		return true
	}
}
