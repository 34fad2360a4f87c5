package sagatest

import (
	"context"
	"reflect"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

// Arrive has an event come after a time that no command of a saga causes, as one of an external service does.
func (w *Environment) Arrive(event any, after time.Duration) { w.arrive(event, after) }

// Signal sends a signal to a saga, as a person does. It needs a unit of work: a command of the test's own, which is sent with the time at which the person
// sends the signal, calls it in its handler.
func (w *Environment) Signal(ctx context.Context, sagaID, signal string, payload any) error {
	return w.manager.Signal(cqrs.WithPrincipal(ctx, cqrs.Guest), sagaID, signal, func(into any) error {
		reflect.ValueOf(into).Elem().Set(reflect.ValueOf(payload))
		return nil
	})
}
