// Package aggregate is the base of event-sourced aggregates. Root records the events that an aggregate decides on and rebuilds it from
// its history; Types hold the names and schema versions under which events are stored, with the upcasters of older versions. It needs the
// standard library only.
package aggregate

import "errors"

// Root remembers what an aggregate has decided. Embed it; E is the sealed interface of the aggregate's events.
type Root[E any] struct {
	version int
	changes []E
}

// Record applies events and keeps them for the event store. Apply must not fail: deciding came before.
func (r *Root[E]) Record(apply func(E), events ...E) {
	for _, e := range events {
		apply(e)
		r.changes = append(r.changes, e)
	}
}

// Replay applies events that are stored already. Apply must not change them: other aggregates are made from the same values.
func (r *Root[E]) Replay(apply func(E), history []E) {
	for _, e := range history {
		apply(e)
	}
	r.version += len(history)
}

// Version is how many events of this aggregate are stored; 0 means that it does not exist yet.
func (r *Root[E]) Version() int { return r.version }

// SetVersion says how many events a snapshot stands for. Replay counts on from there.
func (r *Root[E]) SetVersion(v int) { r.version = v }

// Changes returns what was recorded since the aggregate was rebuilt, oldest first.
func (r *Root[E]) Changes() []any {
	out := make([]any, len(r.changes))
	for i, e := range r.changes {
		out[i] = e
	}
	return out
}

// Saved says that what was recorded is stored now.
func (r *Root[E]) Saved() {
	r.version += len(r.changes)
	r.changes = nil
}

// Refusal is a decision against a command: the rules of the domain say no, and asking again does not help.
type Refusal struct{ reason string } //nolint:errname // a refusal is the domain's word for it

func (r *Refusal) Error() string { return r.reason }

// Refuse makes a Refusal, to be kept in a variable that callers compare with errors.Is.
func Refuse(reason string) error { return &Refusal{reason} }

// IsRefusal tells whether err is, or wraps, a decision of the domain.
func IsRefusal(err error) bool {
	_, ok := errors.AsType[*Refusal](err)
	return ok
}

// InField says that err is about a part of the request.
func InField(field string, err error) error { return &FieldError{field, err} }

// FieldError names the part of a request that is refused, as a path: "lines[2].quantity".
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }
