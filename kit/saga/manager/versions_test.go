package manager_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

type paid struct{ ID string }

// waits holds waits and events in memory.
type waits struct {
	waiting []manager.Waiting
	kept    []saga.Correlation
}

func (w *waits) Deliver(_ context.Context, _ string, _ manager.KeptEvent, by []saga.Correlation) (*manager.Waiting, error) {
	for i, found := range w.waiting {
		if slices.Contains(by, found.Correlation) {
			w.waiting = slices.Delete(w.waiting, i, i+1)
			return &found, nil
		}
	}
	w.kept = append(w.kept, by...)
	return nil, nil
}

func (w *waits) Begin(_ context.Context, _ string, began manager.Waiting) (*manager.KeptEvent, error) {
	w.waiting = append(w.waiting, began)
	return nil, nil
}

func (w *waits) End(context.Context, string, []manager.Waiting) error { return nil }

// An event that starts one version of a definition is awaited by instances of another version, or does not concern them.
func TestVersionsThatStartWithOtherEvents(t *testing.T) {
	known := returning
	known.Version = 2
	known.StartAny = []saga.Expected[parcel]{saga.Event[paid, parcel]()}
	all := known
	all.StartAny, all.Start = nil, saga.Expected[parcel]{}
	all.StartAll = &saga.StartAll[parcel]{Timeout: time.Hour, Events: []saga.Expected[parcel]{saga.Event[returned, parcel](), saga.Event[paid, parcel]()}}
	waiting := returning
	waiting.Steps = append([]saga.Step[parcel]{{Name: "await payment", Timeout: time.Hour, Await: &saga.Await[parcel]{
		Received: saga.Event[paid, parcel](), Key: func(parcel) string { return "r-1" },
	}}}, returning.Steps...)

	all1, newest2 := all, returning
	all1.Version, newest2.Version = 1, 2

	for name, test := range map[string]struct {
		old, newest saga.Definition[parcel]
		step        string // the step in progress after the event
	}{
		"it knows nothing of it": {returning, known, "inspect parcel"},
		"it waits for it":        {waiting, all, "inspect parcel"},
		"it needs it too":        {all1, newest2, "inspect parcel"},
	} {
		t.Run(name, func(t *testing.T) {
			old, newest, stored := saga.New(test.old), saga.New(test.newest), streams{}
			require.NoError(t, newest.Check())
			m := &manager.Manager{Sagas: []*saga.Saga{old}, Streams: stored, Commands: sent{}, Waits: &waits{}}
			require.NoError(t, m.Event(context.Background(), old, cqrs.Event{Body: returned{"r-1"}, Key: "r-1"}))
			m.Sagas = append(m.Sagas, newest)
			require.NoError(t, m.Event(context.Background(), newest, cqrs.Event{Body: paid{"r-1"}, Key: "r-1"}))
			state := saga.Rebuild("", stored[saga.ID("returning", "r-1")])
			require.Equal(t, 1, state.DefVersion)
			require.Equal(t, saga.StepStatusInProgress, state.Step(test.step).Status)
		})
	}
}

// An event without a subject starts no instance, so that such events do not share one.
func TestAnEventWithoutASubjectStartsNothing(t *testing.T) {
	d := returning
	d.StartAny = []saga.Expected[parcel]{saga.OnSubject(func(e paid) string { return e.ID }, func(*parcel, paid) {})}
	s, stored := saga.New(d), streams{}
	m := &manager.Manager{Sagas: []*saga.Saga{s}, Streams: stored, Commands: sent{}}
	require.NoError(t, m.Event(t.Context(), s, cqrs.Event{Body: paid{""}, Key: "p-1"}))
	require.Empty(t, stored)
	require.NoError(t, m.Event(t.Context(), s, cqrs.Event{Body: paid{"r-1"}, Key: "p-2"}))
	require.Len(t, stored, 1)
}
