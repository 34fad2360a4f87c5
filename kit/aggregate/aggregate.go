// Package aggregate is the base of event-sourced aggregates. Root records the events that an aggregate decides on, and rebuilds the aggregate from
// its stored events. Types hold the names and schema versions under which events are stored, with the upcasters of older versions. The package
// depends only on the standard library.
package aggregate

import "errors"

// Root records the events of an aggregate. Embed it in the aggregate. E is the sealed interface of the aggregate's events.
type Root[E any] struct {
	version int
	changes []E
}

// Record applies events to the aggregate and keeps them until the event store saves them. Apply cannot fail: make the decision before Record.
func (r *Root[E]) Record(apply func(E), events ...E) {
	for _, e := range events {
		apply(e)
		r.changes = append(r.changes, e)
	}
}

// Replay applies stored events to the aggregate. Apply must not change the events, because other aggregates may be rebuilt from the same values.
func (r *Root[E]) Replay(apply func(E), history []E) {
	for _, e := range history {
		apply(e)
	}
	r.version += len(history)
}

// Version returns the number of stored events of this aggregate; 0 means that the aggregate does not exist yet.
func (r *Root[E]) Version() int { return r.version }

// SetVersion sets the number of events that a snapshot contains. Replay then adds the events after the snapshot.
func (r *Root[E]) SetVersion(v int) { r.version = v }

// Changes returns the events that were recorded and not yet marked by Saved, oldest first.
func (r *Root[E]) Changes() []any {
	out := make([]any, len(r.changes))
	for i, e := range r.changes {
		out[i] = e
	}
	return out
}

// Saved marks the recorded events as stored: it adds them to Version and clears Changes.
func (r *Root[E]) Saved() {
	r.version += len(r.changes)
	r.changes = nil
}

// Refusal is the error of a domain rule that rejects a command. A retry does not help.
type Refusal struct{ reason string } //nolint:errname // a refusal is the domain's word for it

func (r *Refusal) Error() string { return r.reason }

// Refuse makes a *Refusal. Keep it in a package variable, so that callers can compare it with errors.Is.
func Refuse(reason string) error { return &Refusal{reason} }

// IsRefusal tells whether err is or wraps a Refusal.
func IsRefusal(err error) bool {
	_, ok := errors.AsType[*Refusal](err)
	return ok
}

// InField returns a *FieldError that wraps err and names the field of the request.
func InField(field string, err error) error { return &FieldError{field, err} }

// FieldError names the field of a request to which Err belongs, as a path: "lines[2].quantity".
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }
