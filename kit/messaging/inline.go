// Sagas that receive an answer in the unit of work that records it (ADR 37), events that a saga's consumer skips, and commands that are handled in the unit of
// work that sends them (ADR 38). TestOnlyOwnEventsAreHandledInline and TestSagasReceiveAnswersInline show it.

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

// Inline returns the sagas that may handle an event in the unit of work that records it.
func (r *Router) Inline() []cqrs.InlineConsumer { return r.inline }

// addInline makes the consumer of a saga on an own topic an inline consumer.
func (r *Router) addInline(group string, s *saga.Saga, m *manager.Manager, source Source) {
	r.ownSagas[group] = ownSaga{s.Name(), m}
	if strings.Contains(s.Name(), ",") {
		return // the header could not name it
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

// inlineEndpoint decorates an endpoint whose error means no failure: the broker delivers the message then.
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

// leftToBroker is the outcome, in the log, of a message that could not be handled inline.
const leftToBroker cqrs.Outcome = "left to the broker"

// addInlineCommand makes a command one that may be handled in the unit of work that sends it, if no handler of its destination makes external calls: those
// have a breaker, which is to count each attempt.
func (r *Router) addInlineCommand(destination, group string, h cqrs.Handler, serve cqrs.Endpoint) {
	endpoint := r.inlineEndpoint(h.Type.Name, serve)
	r.commands[CommandTopic(r.config.Prefix, destination)+" "+h.Type.Name] = func(msg *message.Message) *cqrs.InlineCommand {
		meta, err := r.metaOf(group, msg)
		if err != nil {
			return nil // its consumer says so
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

// InlineCommand returns a message as a command to this service. Nil: it is none.
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

// skips tells which events a saga's consumer need not receive: those that it has handled in the unit of work that recorded them, and those that concern no
// instance. If one is delivered all the same, the inbox or the manager finds that out.
func (r *Router) skips(s ownSaga, header func(name string) string) bool {
	if names := header(cqrs.HeaderHandledBy); names != "" && slices.Contains(strings.Split(names, ","), s.name) {
		return true
	}
	t, known := r.config.Marshaler.types.Named(header(cqrs.HeaderType))
	return known && !s.manager.Concerns(s.name, reflect.TypeOf(t.New()).Elem(), header(cqrs.HeaderSagaID), header(cqrs.HeaderSagaStep))
}
