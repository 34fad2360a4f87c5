package manager

import (
	"context"
	"fmt"
	"reflect"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// TakesInline tells whether an event may concern a definition, and whether an instance may handle it in the unit of work that records it,
// before events that are still on their way (cqrs.InlineConsumer). An answer to a command may be: answers to different commands have no order, as they
// come from different topics. So may the first event of an aggregate, which has none before it, if StartsInline: otherwise a deadline would begin while the
// command cannot get through. An event that is awaited comes by the broker, in its order.
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

// errNotInline leaves an event to the broker.
var errNotInline = fmt.Errorf("waits for events change in a transaction of their own: %w", cqrs.ErrConflict)

// Inline is Event in the unit of work that records the event. The error is cqrs.ErrConflict if the instance begins or ends to wait for events, which needs a
// transaction of its own. After an error the caller drops what was done.
func (m *Manager) Inline(ctx context.Context, s *saga.Saga, e cqrs.Event) error {
	return m.Event(context.WithValue(ctx, inlineKey{}, true), s, e)
}
