package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// errNoWaits tells that the manager has no Waits, which a definition needs.
var errNoWaits = errors.New("its saga waits for an event, and the manager has no Waits")

// Waits matches events with the instances that wait for them. An event that arrives first is kept until an instance waits for it. The methods lock the
// correlations in their arguments until the unit of work of ctx ends, so that an event and a wait that arrive at the same time find each other.
type Waits interface {
	// Deliver finds and ends the oldest wait of a definition for one of the correlations of an event. If there is none, it keeps the event and
	// returns nil.
	Deliver(ctx context.Context, definition string, event KeptEvent, by []saga.Correlation) (saga *Waiting, err error)

	// Begin finds and removes the oldest kept event of a correlation. If there is none, it stores the wait and returns nil.
	Begin(ctx context.Context, definition string, w Waiting) (*KeptEvent, error)

	// End removes waits that ended without their event.
	End(ctx context.Context, definition string, waits []Waiting) error
}

// Waiting is an instance with a step that waits for an event.
type Waiting struct {
	SagaID string
	saga.Wait
}

// KeptEvent is an event in the form in which Waits keeps it. Body is its JSON.
type KeptEvent struct {
	MessageID string
	Body      json.RawMessage
	Time      time.Time
}

// UnmatchedEvent is an event that was kept because no saga waits for it yet. HappenedAt is when it was recorded, ReceivedAt when it was kept.
type UnmatchedEvent struct {
	Definition string          `db:"definition" json:"definition"`
	Event      string          `db:"event" json:"event"`
	Key        string          `db:"key" json:"key"`
	MessageID  string          `db:"message_id" json:"message_id"`
	Body       json.RawMessage `db:"body" json:"body"`
	HappenedAt time.Time       `db:"happened_at" json:"happened_at"`
	ReceivedAt time.Time       `db:"received_at" json:"received_at"`
}

// deliver passes an event to the instance of a definition that waits for it.
func (m *Manager) deliver(ctx context.Context, definition string, e cqrs.Event) error {
	var by []saga.Correlation
	for _, s := range m.Sagas { // an instance may run by any version
		if s.Name() != definition {
			continue
		}
		for _, a := range s.AwaitedEvents() {
			if a.Type != reflect.TypeOf(e.Body) {
				continue
			}
			if c := a.Correlation(e.Body, e.Key); c.Key != "" && !slices.Contains(by, c) {
				by = append(by, c)
			}
		}
	}
	switch {
	case len(by) == 0:
		return nil
	case m.Waits == nil:
		return fmt.Errorf("%s: %w", definition, errNoWaits)
	}
	body, err := json.Marshal(e.Body)
	if err != nil {
		return err
	}
	found, err := m.Waits.Deliver(ctx, definition, KeptEvent{e.Meta.ID, body, e.Meta.Time}, by)
	if err != nil || found == nil {
		return err
	}
	return m.react(ctx, nil, found.SagaID, saga.EventInput{Step: found.Step, Event: e.Body, MessageID: e.Meta.ID})
}

// changeWaits stores the waits for events that began, and removes those that ended. If an event was kept for a wait, the instance handles it at once.
func (m *Manager) changeWaits(ctx context.Context, r saga.Reaction) error {
	if m.Waits == nil && len(r.Waits) > 0 {
		return fmt.Errorf("%s, step %q: %w", r.State.Definition, r.Waits[0].Step, errNoWaits)
	}
	if len(r.EndedWaits) > 0 {
		ended := make([]Waiting, len(r.EndedWaits))
		for i, w := range r.EndedWaits {
			ended[i] = Waiting{r.State.ID, w}
		}
		if err := m.Waits.End(ctx, r.State.Definition, ended); err != nil {
			return err
		}
	}
	for _, w := range r.Waits {
		kept, err := m.Waits.Begin(ctx, r.State.Definition, Waiting{r.State.ID, w})
		if err != nil {
			return err
		}
		if kept == nil {
			continue
		}
		event, err := m.decode(r.State, w.Step, kept.Body)
		if err != nil {
			return err
		}
		if err := m.react(ctx, nil, r.State.ID, saga.EventInput{Step: w.Step, Event: event, MessageID: kept.MessageID}); err != nil {
			return err
		}
	}
	return nil
}

// decode reads a kept event into the type that a step waits for.
func (m *Manager) decode(state saga.State, step string, body json.RawMessage) (any, error) {
	definition, err := m.find(state.Definition, state.DefVersion)
	if err != nil {
		return nil, err
	}
	for _, a := range definition.AwaitedEvents() {
		if a.Step == step {
			event := reflect.New(a.Type)
			if err := json.Unmarshal(body, event.Interface()); err != nil {
				return nil, fmt.Errorf("%s, step %q: a kept %s: %w", state.Definition, step, a.Type, err)
			}
			return event.Elem().Interface(), nil
		}
	}
	return nil, fmt.Errorf("%s v%d waits for no event at step %q", state.Definition, state.DefVersion, step)
}
