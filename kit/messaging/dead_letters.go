// Dead letters. A message that fails for good is acknowledged only after its bytes are stored with the reason, in one transaction with the answer to its
// sender. TestHostileRecordsEndAsDeadLetters and TestDeadCommandIsAnswered show it.

package messaging

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

type panicked struct {
	value any
	stack string
}

func (p panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

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

// shownID is a message's id for a log line; an id from outside may be long.
func shownID(msg *message.Message) string {
	const most = 100
	if len(msg.UUID) > most {
		return msg.UUID[:most] + "…"
	}
	return msg.UUID
}
