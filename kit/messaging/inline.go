// Inline handling: sagas that receive an answer in the unit of work that records it (ADR 37), events that a saga's consumer skips, and commands that
// are handled in the unit of work that sends them (ADR 38). TestOnlyOwnEventsAreHandledInline and TestSagasReceiveAnswersInline show it.

package messaging

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Inline returns the consumers of sagas that may handle an event in the unit of work that records it.
func (r *Router) Inline() []cqrs.InlineConsumer { return r.inline }

// addInline makes the consumer of a saga on a topic of this service an inline consumer.
func (r *Router) addInline(group string, s *saga.Saga, m *manager.Manager, source Source) {
	r.ownSagas[group] = ownSaga{s.Name(), m}
	if strings.Contains(s.Name(), ",") {
		return // the header separates names by commas
	}
	handle := r.inlineEndpoint(group, func(ctx context.Context, e any) (any, error) { return cqrs.Processed, m.Inline(ctx, s, e.(cqrs.Event)) })
	r.inline = append(r.inline, cqrs.InlineConsumer{
		Name: s.Name(), Consumer: group, Category: source.Category,
		Takes: func(e cqrs.Event) (concerns, inline bool) {
			if !slices.Contains(source.Types, reflect.TypeOf(e.Body)) {
				return false, false
			}
			return m.TakesInline(s, e)
		},
		Handle: func(ctx context.Context, e cqrs.Event) error { return handle(ctx, e) },
	})
}

// inlineEndpoint decorates an endpoint. Decorators do not see its error as a failure, because the broker then delivers the message.
func (r *Router) inlineEndpoint(name string, next cqrs.Endpoint) func(ctx context.Context, body any) error {
	type attempt struct {
		body any
		err  error
	}
	handle := r.config.Decorate(name, func(ctx context.Context, request any) (outcome any, _ error) {
		a := request.(*attempt)
		if outcome, a.err = next(ctx, a.body); a.err != nil {
			return leftToBroker, nil //nolint:nilerr // nothing has failed: the broker delivers it
		}
		return outcome, nil
	})
	return func(ctx context.Context, body any) error {
		a := &attempt{body: body}
		_, _ = handle(ctx, a)
		return a.err
	}
}

// leftToBroker is the outcome, in the log, of a message that could not be handled inline and that the broker delivers.
const leftToBroker cqrs.Outcome = "left to the broker"

// addInlineCommand registers a command to be handled in the unit of work that sends it, unless a handler of its destination calls an external
// service: such a destination has a circuit breaker, which must count each attempt.
func (r *Router) addInlineCommand(destination, group string, h cqrs.Handler, serve cqrs.Endpoint) {
	endpoint := r.inlineEndpoint(h.Type.Name, serve)
	r.commands[CommandTopic(r.config.Prefix, destination)+" "+h.Type.Name] = func(msg *message.Message) *cqrs.InlineCommand {
		meta, err := r.metaOf(group, msg)
		if err != nil {
			return nil // the command's consumer reports the error
		}
		c := &cqrs.InlineCommand{Consumer: group, Meta: meta}
		if r.calling[group] || h.AfterCommit {
			return c
		}
		c.Handle = func(ctx context.Context) error {
			body, err := r.config.Marshaler.decode(msg)
			if err != nil {
				return err
			}
			if err := cmp.Or(r.config.Marshaler.checkPayload(msg, body), cqrs.CheckText("key of "+meta.Type, body.(cqrs.Keyed).Key(), cqrs.MaxKey)); err != nil {
				return err
			}
			return endpoint(otel.GetTextMapPropagator().Extract(ctx, propagation.MapCarrier(msg.Metadata)), body)
		}
		return c
	}
}

// InlineCommand returns the message as an inline command. It returns nil if the message is not a command to this service.
func (r *Router) InlineCommand(topic string, msg *message.Message) *cqrs.InlineCommand {
	c, ok := r.commands[topic+" "+msg.Metadata[cqrs.HeaderType]]
	if !ok {
		return nil
	}
	return c(msg)
}

// ownSaga is the consumer of a saga on a topic of this service.
type ownSaga struct {
	name    string
	manager *manager.Manager
}

// skips tells whether a saga's consumer need not receive an event: because it handled the event in the unit of work that recorded it, or because the
// event concerns no instance of the saga. If the broker delivers such an event all the same, the inbox or the manager ignores it.
func (r *Router) skips(s ownSaga, header func(name string) string) bool {
	if names := header(cqrs.HeaderHandledBy); names != "" && slices.Contains(strings.Split(names, ","), s.name) {
		return true
	}
	t, known := r.config.Marshaler.types.Named(header(cqrs.HeaderType))
	return known && !s.manager.Concerns(s.name, reflect.TypeOf(t.New()).Elem(), header(cqrs.HeaderSagaID), header(cqrs.HeaderSagaStep))
}
