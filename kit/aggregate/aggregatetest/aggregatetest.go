// Package aggregatetest tests the decisions of aggregates. A test says: given these stored events, when this method is called, then these events are
// recorded, or the method returns this refusal.
package aggregatetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// Aggregate is the interface of the aggregates that this package tests. aggregate.Root implements it.
type Aggregate interface{ Changes() []any }

// Kit makes test scenarios for one type of aggregate.
type Kit[A Aggregate, E any] struct{ rebuild func([]E) A }

// For makes a Kit. Rebuild makes an aggregate from its stored events; A and E are inferred from it.
func For[A Aggregate, E any](rebuild func([]E) A) Kit[A, E] { return Kit[A, E]{rebuild} }

// Given sets the stored events of the aggregate.
func (k Kit[A, E]) Given(history ...E) Scenario[A, E] { return Scenario[A, E]{k, history} }

// Scenario is an aggregate with stored events. When adds the decision to test.
type Scenario[A Aggregate, E any] struct {
	kit     Kit[A, E]
	history []E
}

// When sets the decision: a function that calls a method of the aggregate and returns the method's error.
func (s Scenario[A, E]) When(ask func(A) error) Outcome[A, E] { return Outcome[A, E]{s, ask} }

// Outcome checks the result of the decision with Then, Nothing or Refused, each of which returns a test function for testing.T.Run.
type Outcome[A Aggregate, E any] struct {
	scenario Scenario[A, E]
	ask      func(A) error
}

// Then returns a test that passes if the decision returns no error and records exactly these events.
func (a Outcome[A, E]) Then(want ...E) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		got, err := a.run(t)
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		expected := make([]any, len(want))
		for i, e := range want {
			expected[i] = e
		}
		if len(got)+len(expected) > 0 && !reflect.DeepEqual(got, expected) {
			t.Fatalf("recorded %+v, want %+v", got, expected)
		}
	}
}

// Nothing returns a test that passes if the decision returns no error and records no event, as for a duplicate command.
func (a Outcome[A, E]) Nothing() func(*testing.T) { return a.Then() }

// Refused returns a test that passes if the decision returns an error that is or wraps want, and records no event.
func (a Outcome[A, E]) Refused(want error) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		got, err := a.run(t)
		if !errors.Is(err, want) {
			t.Fatalf("got error %v, want %v", err, want)
		}
		if len(got) > 0 {
			t.Fatalf("refused, but recorded %+v", got)
		}
	}
}

// run calls the decision. It fails the test if the aggregate has changed a stored event: the event store shares events between units of work, so an
// aggregate must copy the slices and maps that it changes.
func (a Outcome[A, E]) run(t *testing.T) ([]any, error) {
	t.Helper()
	before, err := json.Marshal(a.scenario.history)
	if err != nil {
		t.Fatalf("an event is no JSON: %v", err)
	}
	it := a.scenario.kit.rebuild(a.scenario.history)
	refusal := a.ask(it)
	if after, err := json.Marshal(a.scenario.history); err != nil || !bytes.Equal(before, after) {
		t.Fatalf("%T changes events of its history: they were %s, and are %s (%v)", it, before, after, err)
	}
	return it.Changes(), refusal
}
