// Package aggregate is the base of event-sourced aggregates. Root records the events that an aggregate decides on and rebuilds it from
// its history; Types hold the names and schema versions under which events are stored, with the upcasters of older versions. It needs the
// standard library only.
package aggregate

import "errors"

// Root records the events of an aggregate. Embed it; E is the sealed interface of the aggregate's events.
type Root[E any] struct {
	version int
	changes []E
}

// Record applies events and keeps them for the event store. Apply must not fail: the decision was made before.
func (r *Root[E]) Record(apply func(E), events ...E) {
	for _, e := range events {
		apply(e)
		r.changes = append(r.changes, e)
	}
}

// Replay applies stored events. Apply must not change them: other aggregates are built from the same values.
func (r *Root[E]) Replay(apply func(E), history []E) {
	for _, e := range history {
		apply(e)
	}
	r.version += len(history)
}

// Version is the number of stored events of this aggregate; 0 means that it does not exist yet.
func (r *Root[E]) Version() int { return r.version }

// SetVersion sets the number of events that a snapshot contains. Replay continues from there.
func (r *Root[E]) SetVersion(v int) { r.version = v }

// Changes returns the events that were recorded since the aggregate was rebuilt, oldest first.
func (r *Root[E]) Changes() []any {
	out := make([]any, len(r.changes))
	for i, e := range r.changes {
		out[i] = e
	}
	return out
}

// Saved marks the recorded events as stored.
func (r *Root[E]) Saved() {
	r.version += len(r.changes)
	r.changes = nil
}

// Refusal is a domain rule that rejects a command. A retry does not help.
type Refusal struct{ reason string } //nolint:errname // a refusal is the domain's word for it

func (r *Refusal) Error() string { return r.reason }

// Refuse makes a Refusal. Keep it in a variable, so that callers can compare it with errors.Is.
func Refuse(reason string) error { return &Refusal{reason} }

// IsRefusal tells whether err is or wraps a Refusal.
func IsRefusal(err error) bool {
	_, ok := errors.AsType[*Refusal](err)
	return ok
}

// InField adds the field of the request that err is about.
func InField(field string, err error) error { return &FieldError{field, err} }

// FieldError names the part of a request that is refused, as a path: "lines[2].quantity".
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }
