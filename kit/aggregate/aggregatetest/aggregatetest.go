// Package aggregatetest tests aggregates: given these events, when a decision is made, then these events are recorded, or the decision is
// refused.
package aggregatetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// Aggregate is the interface of an aggregate for this kit.
type Aggregate interface{ Changes() []any }

// Kit makes scenarios for one type of aggregate.
type Kit[A Aggregate, E any] struct{ rebuild func([]E) A }

// For starts with the aggregate's Rebuild, from which the types are inferred.
func For[A Aggregate, E any](rebuild func([]E) A) Kit[A, E] { return Kit[A, E]{rebuild} }

// Given sets the history.
func (k Kit[A, E]) Given(history ...E) Scenario[A, E] { return Scenario[A, E]{k, history} }

// Scenario has a history, and waits for a decision.
type Scenario[A Aggregate, E any] struct {
	kit     Kit[A, E]
	history []E
}

// When sets the decision that is called.
func (s Scenario[A, E]) When(ask func(A) error) Outcome[A, E] { return Outcome[A, E]{s, ask} }

// Outcome checks the result of the decision: Then, Nothing or Refused.
type Outcome[A Aggregate, E any] struct {
	scenario Scenario[A, E]
	ask      func(A) error
}

// Then passes if exactly these events were recorded.
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

// Nothing passes if the decision succeeded without recording an event, as for a duplicate command.
func (a Outcome[A, E]) Nothing() func(*testing.T) { return a.Then() }

// Refused passes if the decision failed with this error and recorded nothing.
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

// run calls the decision, and fails the test if the aggregate has changed an event of its history: the event store shares events between
// units of work, so an aggregate must copy the slices and maps that it changes.
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
