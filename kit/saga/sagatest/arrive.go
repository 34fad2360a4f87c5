package sagatest

import (
	"context"
	"reflect"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Arrive delivers an event after a time. No command of a saga causes the event, as with an event of an external service.
func (w *Environment) Arrive(event any, after time.Duration) { w.arrive(event, after) }

// Signal sends a signal to a saga, as a person with every role. It must be called inside a unit of work: in the handler of a command of the test, which
// the test sends with the time at which the person sends the signal.
func (w *Environment) Signal(ctx context.Context, sagaID, signal string, payload any) error {
	return w.manager.Signal(cqrs.WithPrincipal(ctx, cqrs.Guest), sagaID, signal, func(into any) error {
		reflect.ValueOf(into).Elem().Set(reflect.ValueOf(payload))
		return nil
	})
}
