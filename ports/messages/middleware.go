package messages

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/app"
)

// Lines keep the order of keys whose messages fail, and the dead letters.
type Lines interface {
	// Expect is told of a message that waits for others of its key.
	Expect(p app.Place, messageID string)

	// Join tells whether a message may be handled now, and how often it has failed. If not, it waits in line and comes again.
	Join(ctx context.Context, p app.Place, topic string, msg *message.Message) (turn app.Turn, failures int, err error)

	// Later has a message come again at a time, as the head of its line.
	Later(ctx context.Context, p app.Place, topic string, msg *message.Message, due time.Time) error

	// Bury keeps a dead letter, in the unit of work of ctx. Hold says that the line waits until it is redriven or dropped.
	// More is done in the same unit.
	Bury(ctx context.Context, p app.Place, l app.DeadLetter, hold bool, more func(ctx context.Context) error) error

	// Done notes that the head of a line was handled, and returns what comes next, to be handled at once.
	Done(ctx context.Context, p app.Place, messageID string) (next *message.Message, err error)

	// Release lets the head of a line come by way of the broker.
	Release(ctx context.Context, p app.Place, messageID string) error
}

// Before an error that nobody foresaw makes a message dead, it is tried maxUnknown times; the first few at once, the others
// later.
const (
	maxAtOnce  = 3
	maxUnknown = 8
)

// maxHere is how long a message that waits for a lock or for an answer of the database may hold up its partition.
const maxHere = 3 * time.Second

type panicked struct {
	value any
	stack string
}

func (p panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// place is the line of a message. What has no key waits for nobody.
func (r *Router) place(msg *message.Message) app.Place {
	return r.placeAt(message.HandlerNameFromCtx(msg.Context()), msg)
}

func (r *Router) placeAt(consumer string, msg *message.Message) app.Place {
	p := app.Place{Consumer: consumer, Line: msg.Metadata.Get(app.HeaderKey)}
	if id := msg.Metadata.Get(app.HeaderSagaID); id != "" && r.sagaGroups[p.Consumer] {
		p.Line = id // its events have the keys of many aggregates
	}
	if p.Line == "" {
		p.Line = "message " + msg.UUID
	}
	return p
}

// announce has what must be known of a message looked up while it waits for others of its key: its line, and what expect, which may be
// nil, wants to know of a command.
func (r *Router) announce(consumer string, expect func(app.Delivery)) func(*message.Message) {
	return func(msg *message.Message) {
		r.config.Lines.Expect(r.placeAt(consumer, msg), msg.UUID)
		if expect == nil {
			return
		}
		if meta, err := metaOf(msg); err == nil { // else it will be said when it is handled
			expect(app.Delivery{Consumer: consumer, Meta: meta, Command: true})
		}
	}
}

// onLargeStack gives the goroutine of a message the stack that it will need, while there is little on it to be copied. Left to itself it
// is copied again and again on the way down, which was a fifteenth of all that a saga cost.
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

// inHand tells what is being handled. Nothing is told of a message without a time.
func (r *Router) inHand(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if at, err := time.Parse(time.RFC3339Nano, msg.Metadata.Get(app.HeaderTime)); err == nil {
			defer r.config.InHand(message.HandlerNameFromCtx(msg.Context()), at)()
		}
		return next(msg)
	}
}

// deadLetters keeps what cannot be handled. If even that fails, the message goes back to Kafka: it is never lost.
func (r *Router) deadLetters(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (produced []*message.Message, err error) {
		defer func() {
			if value := recover(); value != nil {
				err = panicked{value, string(debug.Stack())}
			}
			if at, _ := msg.Context().Value(attemptKey{}).(attempt); err == nil || at.early || errors.Is(err, errKept) || app.KindOf(err) == app.Stopping {
				return
			}
			r.config.OnFailure(message.HandlerNameFromCtx(msg.Context()), "dead")
			if err = r.bury(msg, err); err == nil {
				err = errKept
			}
		}()
		return next(msg)
	}
}

// bury makes a message a dead letter. The saga that sent it is told, and decides; nothing waits then, for the barrier keeps what
// comes of a redrive from doing harm. Whatever else has the same key waits until somebody has redriven or dropped the letter.
func (r *Router) bury(msg *message.Message, reason error) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	place, now := r.place(msg), r.config.Clock().UTC()
	letter := app.DeadLetter{
		ID: id.String(), Consumer: place.Consumer, MessageID: msg.UUID, Topic: message.SubscribeTopicFromCtx(msg.Context()),
		Key: msg.Metadata.Get(app.HeaderKey), Headers: msg.Metadata, Payload: msg.Payload, Reason: reason.Error(), Attempts: 1, First: now, Last: now,
	}
	if p, ok := reason.(panicked); ok { //nolint:errorlint // made two functions above, never wrapped
		letter.Stack = p.stack
	}
	answer, answered := r.failed(place.Consumer, msg, reason)
	r.config.Log.Error("message is dead", "consumer", place.Consumer, "message", msg.UUID, "type", msg.Metadata.Get(app.HeaderType),
		"topic", letter.Topic, "reason", reason, "letter", letter.ID)
	return r.keepTrying(func() error {
		return r.config.UnitOfWork.Within(context.WithoutCancel(msg.Context()), func(ctx context.Context) error {
			return r.config.Lines.Bury(ctx, place, letter, !answered, func(ctx context.Context) error {
				if !answered {
					return nil
				}
				return r.config.Events.Publish(ctx, answer)
			})
		})
	}, "keep the dead letter of message "+msg.UUID)
}

// failed is what the saga of a command is told when the command is dead.
func (r *Router) failed(consumer string, msg *message.Message, reason error) (app.Event, bool) {
	category, ok := r.categories[consumer]
	if !ok {
		return app.Event{}, false // no command
	}
	meta, err := metaOf(msg)
	if err != nil {
		return app.Event{}, false // nobody knows whose it was
	}
	delivery := app.Delivery{Consumer: consumer, Meta: meta, Command: true, Category: category, Key: msg.Metadata.Get(app.HeaderKey)}
	text, _, _ := strings.Cut(reason.Error(), "\n")
	return delivery.Answer(app.FailedAnswer{Reason: fmt.Sprintf("%.200s", text)}, r.config.Clock())
}

// keepTrying does what only an absent database keeps from succeeding, until the service stops.
func (r *Router) keepTrying(do func() error, what string) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil {
			return nil
		}
		r.config.Log.Warn("will try again", "what", what, "error", err)
		if !r.wait(backoff(attempt)) {
			return fmt.Errorf("%s: stopping: %w: %w", what, context.Canceled, err)
		}
	}
}

// errKept says that the message is kept, as a dead letter or to come again, so that it is acknowledged, but not done.
var errKept = errors.New("kept")

// maxInLine is how many of a line are handled one after the other, before others of the partition have their turn.
const maxInLine = 200

// inLine has a message wait for those of its key that came before it and could not be handled yet.
func (r *Router) inLine(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		place := r.place(msg)
		if only := msg.Metadata.Get(app.HeaderFor); only != "" && only != place.Consumer {
			return nil, nil
		}
		link, outer := app.LinkOf(msg.Context()), msg.Context()
	again:
		early := link.Waits()
		var turn app.Turn
		var failures int
		err := r.keepTrying(func() (err error) {
			turn, failures, err = r.config.Lines.Join(outer, place, message.SubscribeTopicFromCtx(outer), msg)
			return err
		}, "find the line of message "+msg.UUID)
		if err != nil {
			return nil, err
		}
		if turn == app.Behind {
			r.config.OnFailure(place.Consumer, "waiting")
			return nil, nil
		}
		msg.SetContext(context.WithValue(outer, attemptKey{}, attempt{failures, early}))
		produced, err := next(msg)
		if err != nil && early {
			// The message before it was not committed when this one was begun. Whatever failed may be due to that.
			msg.SetContext(outer)
			if err := link.Wait(outer); err != nil {
				return nil, err
			}
			goto again
		}
		switch {
		case errors.Is(err, errKept):
			return nil, nil
		case err != nil || turn == app.Alone:
			return produced, err
		}
		return produced, r.goOn(place, msg, next)
	}
}

// goOn handles what waits behind a head that is done.
func (r *Router) goOn(place app.Place, head *message.Message, handle message.HandlerFunc) error {
	ctx := context.WithValue(head.Context(), attemptKey{}, attempt{})
	for n := 1; ; n++ {
		var following *message.Message
		err := r.keepTrying(func() (err error) {
			following, err = r.config.Lines.Done(ctx, place, head.UUID)
			return err
		}, "let the next in line come")
		if err != nil || following == nil {
			return err
		}
		following.SetContext(ctx)
		if n == maxInLine {
			return r.keepTrying(func() error { return r.config.Lines.Release(ctx, place, following.UUID) }, "let the next in line come")
		}
		switch _, err := handle(following); {
		case errors.Is(err, errKept):
			return nil
		case err != nil: // stopping; it comes by way of the broker
			return nil //nolint:nilerr // the head is done
		}
		head = following
	}
}

type attemptKey struct{}

// attempt is what is known of a message before it is handled.
type attempt struct {
	failures int  // how often it has failed before
	early    bool // the message before it under its key was not dealt with yet
}

// recognise reads the headers into the context.
func (r *Router) recognise(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if !r.strangers[message.HandlerNameFromCtx(msg.Context())] {
			if err := r.config.Marshaler.known(msg); err != nil {
				return nil, err
			}
		}
		meta, err := metaOf(msg)
		if err != nil {
			return nil, err
		}
		ctx := otel.GetTextMapPropagator().Extract(msg.Context(), propagation.MapCarrier(msg.Metadata))
		msg.SetContext(app.WithMeta(ctx, meta))
		return next(msg)
	}
}

// retry decides by the kind of an error what becomes of the message. A conflict is tried again at once. Everything else that may
// pass is tried a few times, and then goes back to the outbox to come again later: its key waits for it, and its partition goes
// on. While the database is away, which would have to keep it, there is nothing better to do than to wait.
func (r *Router) retry(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		place := r.place(msg)
		at, _ := msg.Context().Value(attemptKey{}).(attempt)
		failures := at.failures
		began := time.Now()
		for attempt := 1; ; attempt++ {
			produced, err := next(msg)
			kind := app.KindOf(err)
			if at.early {
				return produced, err
			}
			switch kind {
			case app.None, app.Stopping, app.Poison, app.Refused:
				return produced, err
			case app.Down, app.Unknown, app.Transient, app.Conflict:
			}
			if kind == app.Unknown && failures >= maxUnknown-maxAtOnce {
				return nil, err
			}
			if kind == app.Down || attempt >= maxAtOnce && kind != app.Conflict || attempt >= maxConflicts || failures > 0 ||
				kind == app.Transient && time.Since(began) > maxHere {
				pause := backoff(failures + 4)
				r.config.Log.Warn("comes again later", "consumer", place.Consumer, "message", msg.UUID, "error", err, "kind", kind.String(), "failures", failures+1, "in", pause)
				due := r.config.Clock().Add(pause)
				later := r.config.Lines.Later(msg.Context(), place, message.SubscribeTopicFromCtx(msg.Context()), msg, due)
				if later == nil {
					r.config.OnFailure(place.Consumer, "delayed")
					return nil, errKept
				}
				err = later
			}
			r.config.OnFailure(place.Consumer, "retried")
			r.config.Log.Warn("retrying", "consumer", place.Consumer, "message", msg.UUID, "error", err, "kind", kind.String(), "attempt", attempt)
			if !r.wait(backoff(attempt)) {
				return nil, fmt.Errorf("stopping: %w: %w", context.Canceled, err)
			}
		}
	}
}

// maxConflicts is how often a conflict is tried again at once. The unit of work has tried it many times before each of them.
const maxConflicts = 5

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
