// Sagas that receive an answer in the unit of work that records it (ADR 37), and events that a saga's consumer passes over.
// TestOnlyOwnEventsAreHandledInline and TestSagasReceiveAnswersInline show it.

package messaging

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

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
	type attempt struct {
		event cqrs.Event
		err   error
	}
	handle := r.config.Decorate(group, func(ctx context.Context, request any) (any, error) {
		a := request.(*attempt)
		if a.err = m.Inline(ctx, s, a.event); a.err != nil {
			return leftToBroker, nil //nolint:nilerr // nothing has failed: the broker delivers it
		}
		return cqrs.Processed, nil
	})
	r.inline = append(r.inline, cqrs.InlineConsumer{
		Name: s.Name(), Consumer: group, Category: source.Category,
		Takes: func(e cqrs.Event) (concerns, inline bool) {
			if !slices.Contains(source.Types, reflect.TypeOf(e.Body)) {
				return false, false
			}
			return m.TakesInline(s, e)
		},
		Handle: func(ctx context.Context, e cqrs.Event) error {
			a := &attempt{event: e}
			_, _ = handle(ctx, a)
			return a.err
		},
	})
}

// leftToBroker is the outcome, in the log, of an event that could not be handled inline.
const leftToBroker cqrs.Outcome = "left to the broker"

// ownSaga is the consumer of a saga on a topic of this service.
type ownSaga struct {
	name    string
	manager *manager.Manager
}

// passOver passes over the events that a saga's consumer need not handle: those that it has handled in the unit of work that recorded them, and
// those that concern no instance. Their payloads need not be decoded for that.
func (r *Router) passOver(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if r.passes(message.HandlerNameFromCtx(msg.Context()), msg.Metadata) {
			return nil, nil
		}
		return next(msg)
	}
}

func (r *Router) passes(consumer string, headers message.Metadata) bool {
	s, ok := r.ownSagas[consumer]
	if !ok {
		return false
	}
	if names := headers[cqrs.HeaderHandledBy]; names != "" && slices.Contains(strings.Split(names, ","), s.name) {
		return true
	}
	t, known := r.config.Marshaler.types.Named(headers[cqrs.HeaderType])
	return known && !s.manager.Concerns(s.name, reflect.TypeOf(t.New()).Elem(), headers[cqrs.HeaderSagaID], headers[cqrs.HeaderSagaStep])
}
