// Sagas that are told of an event in the unit of work that records it (ADR 37). TestOnlyOwnEventsAreHandledInline and
// TestSagasAreToldInline show it.

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

// Inline returns the sagas that may be told of an event in the unit of work that records it.
func (r *Router) Inline() []cqrs.InlineConsumer { return r.inline }

func (r *Router) addInline(group string, s *saga.Saga, m *manager.Manager, source Source) {
	if strings.Contains(s.Name(), ",") {
		return // the header could not name it
	}
	handle := r.config.Decorate(group, func(ctx context.Context, e any) (any, error) {
		return cqrs.Processed, m.Event(ctx, s, e.(cqrs.Event))
	})
	r.inlineGroups[group] = s.Name()
	r.inline = append(r.inline, cqrs.InlineConsumer{
		Name: s.Name(), Consumer: group, Category: source.Category,
		Takes: func(e cqrs.Event) (concerns, inline bool) {
			if !slices.Contains(source.Types, reflect.TypeOf(e.Body)) {
				return false, false
			}
			return m.TakesInline(s, e)
		},
		Handle: func(ctx context.Context, e cqrs.Event) error {
			_, err := handle(ctx, e)
			return err
		},
	})
}

// handledInline passes over the events that their consumer has handled in the unit of work that recorded them.
func (r *Router) handledInline(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if msg.Metadata[cqrs.HeaderHandledBy] != "" && r.wasHandledInline(message.HandlerNameFromCtx(msg.Context()), msg.Metadata) {
			return nil, nil
		}
		return next(msg)
	}
}

func (r *Router) wasHandledInline(consumer string, headers message.Metadata) bool {
	name := r.inlineGroups[consumer]
	return name != "" && slices.Contains(strings.Split(headers[cqrs.HeaderHandledBy], ","), name)
}
