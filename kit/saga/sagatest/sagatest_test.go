package sagatest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	domain "github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

type memory struct{}

type begun struct{}

type done struct{}

type undone struct{}

type work struct{ N int }

func (work) Key() string { return "k" }

func definition() saga.Definition[memory] {
	return saga.Definition[memory]{
		Name: "working", Version: 1, Start: saga.Event[begun, memory](),
		Steps: []saga.Step[memory]{{
			Name: "do work", Action: func(memory) cqrs.Keyed { return work{1} }, Completed: saga.Event[done, memory](), Timeout: time.Second,
			Compensation: func(memory) cqrs.Keyed { return work{-1} }, Compensated: saga.Event[undone, memory](),
		}},
		OnCompensated: saga.FinalStep[memory]{
			Name: "give up", Action: func(memory, string) cqrs.Keyed { return work{0} }, Completed: saga.Event[done, memory](), Timeout: time.Second,
		},
	}
}

// A scenario must fail with a definition with which the service would refuse to start.
func TestGivenWhenThenRefusesAnInvalidDefinition(t *testing.T) {
	require.NoError(t, For(definition()).Given().When(begun{}).verdict("", nil, []cqrs.Keyed{work{1}}))

	invalid := definition()
	invalid.Steps[0].Compensation = nil
	require.Error(t, saga.New(invalid).Check())
	err := For(invalid).Given().When(begun{}).verdict("", nil, []cqrs.Keyed{work{1}})
	require.ErrorContains(t, err, "the service would not start with this definition")
	require.ErrorContains(t, err, `step "do work" comes before the pivot`)
}

func TestADifferenceIsShownWithTypes(t *testing.T) {
	err := For(definition()).Given().When(begun{}).verdict("", nil, []cqrs.Keyed{work{2}})
	require.EqualError(t, err, "sent [sagatest.work{N:1}], want [sagatest.work{N:2}]")
}

// subject is an aggregate that only starts.
type subject struct{ domain.Root[any] }

func (s *subject) begin() {
	if s.Version() == 0 {
		s.Record(func(any) {}, begun{})
	}
}

func rebuild(history []any) *subject {
	s := &subject{}
	s.Replay(func(any) {}, history)
	return s
}

// A step whose handler succeeds without recording an event is answered, for actions and compensations, whatever faults happen.
func TestAStepWithoutAnEventIsAnswered(t *testing.T) {
	Faults{
		Sagas: []*saga.Saga{saga.New(definition())}, Runs: 500,
		Play: func(w *Environment) Play {
			subjects := NewStore(w, "subjects", rebuild)
			handler := cqrs.Handle("DoWork", func(context.Context, work) error { return nil }) // the handler has nothing to change
			return Play{
				Handlers: cqrs.ForAggregate("subjects", handler),
				Start: func(ctx context.Context, n int) error {
					return subjects.Update(ctx, fmt.Sprint(n), func(s *subject) error { s.begin(); return nil })
				},
				Check: func() error { return nil }, // Faults checks before that all sagas have ended
			}
		},
	}.Run(t)
}
