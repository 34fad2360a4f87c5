// Dead letters. A message that fails permanently is acknowledged only after its bytes and the reason are stored; the answer to the message's sender
// is published in the same transaction. TestHostileRecordsEndAsDeadLetters and TestDeadCommandIsAnswered show it.

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

// DeadLetters stores a message as a dead letter if its handler fails permanently: with a permanent error, a refusal, a panic, or an error that Retry
// has given up on. The message is then acknowledged. If it cannot be stored, or the program stops, the broker delivers the message again, so it is
// never lost. Add this middleware inside KeyOrder and outside Retry.
//
// The key of the message stays blocked until an operator replays or drops the dead letter, with two exceptions. If Options.Answer answers the sender,
// the key is not blocked, because the sender decides how to continue. If the domain refuses the message, the key is not blocked, because a refused
// message has no effect that a later message could depend on.
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

// answer returns a function that tells the saga of a command that the command has become a dead letter.
func (r *Router) answer(msg *message.Message, reason error) (publish func(ctx context.Context) error, answered bool) {
	event, answered := r.failed(message.HandlerNameFromCtx(msg.Context()), msg, reason)
	return func(ctx context.Context) error { return r.config.Events.Publish(ctx, event) }, answered
}

// failed returns the answer to the saga whose command has become a dead letter. It returns false if no saga sent the message.
func (r *Router) failed(consumer string, msg *message.Message, reason error) (cqrs.Event, bool) {
	category, ok := r.categories[consumer]
	if !ok {
		return cqrs.Event{}, false // the message is not a command
	}
	meta, err := r.metaOf(consumer, msg)
	if err != nil {
		return cqrs.Event{}, false // the saga cannot be read from the headers
	}
	delivery := cqrs.Delivery{Consumer: consumer, Meta: meta, Command: true, Category: category, Key: msg.Metadata[cqrs.HeaderKey]}
	text, _, _ := strings.Cut(reason.Error(), "\n")
	return delivery.Answer(cqrs.FailedAnswer{Reason: strings.ToValidUTF8(strings.ReplaceAll(fmt.Sprintf("%.200s", text), "\x00", "\uFFFD"), "\uFFFD")}, r.config.Clock())
}

// shownID returns a message's id for log lines. It shortens an id of more than 100 bytes, because ids may come from outside.
func shownID(msg *message.Message) string {
	const most = 100
	if len(msg.UUID) > most {
		return msg.UUID[:most] + "…"
	}
	return msg.UUID
}
