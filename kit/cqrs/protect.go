package cqrs

import (
	"fmt"
	"runtime/debug"
)

// PanicError is a panic of a function that was called for several callers, or in another goroutine. It is permanent.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Is makes errors.Is(err, ErrPermanent) true.
func (e *PanicError) Is(target error) bool { return target == ErrPermanent }

// Protect calls f and returns a panic as a *PanicError, so that the panic of one caller ends neither the process nor the other callers of a
// batch.
func Protect(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{value, string(debug.Stack())}
		}
	}()
	return f()
}
