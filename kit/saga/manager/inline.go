package manager

import (
	"context"
	"fmt"
	"reflect"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// TakesInline tells whether an event may concern a definition, and whether an instance may handle the event in the unit of work that records it, before
// earlier events that the broker has not delivered yet (cqrs.InlineConsumer). An answer to a command may be handled inline: answers to different commands
// have no order, because they come from different topics. The first event of an aggregate may start an instance inline, because no event is before it,
// but only if StartsInline: otherwise the timeout would begin although the command cannot reach its handler. An awaited event always comes by the
// broker, in order.
func (m *Manager) TakesInline(s *saga.Saga, e cqrs.Event) (concerns, inline bool) {
	event := reflect.TypeOf(e.Body)
	if !m.Concerns(s.Name(), event, e.Meta.SagaID, e.Meta.SagaStep) {
		return false, false
	}
	for _, version := range m.Sagas {
		if version.Name() != s.Name() {
			continue
		}
		if awaits(version, event) || version.StartsWith(event) && (e.Meta.Version != 1 || m.StartsInline == nil || !m.StartsInline()) {
			return true, false
		}
	}
	return true, true
}

type inlineKey struct{}

func isInline(ctx context.Context) bool { return ctx.Value(inlineKey{}) != nil }

// errNotInline leaves an event to the broker, which delivers it again in a transaction of its own.
var errNotInline = fmt.Errorf("waits for events change in a transaction of their own: %w", cqrs.ErrConflict)

// Inline is Event in the unit of work that records the event. The error wraps cqrs.ErrConflict if the instance begins or ends to wait for events, which
// needs a transaction of its own. After an error the caller must roll back the changes that Inline has made.
func (m *Manager) Inline(ctx context.Context, s *saga.Saga, e cqrs.Event) error {
	return m.Event(context.WithValue(ctx, inlineKey{}, true), s, e)
}
