package manager_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

type (
	returned struct{ ID string }
	closed   struct{}
	work     struct{}
	verdict  struct {
		Damaged bool `json:"damaged"`
	}
	parcel struct{ Damaged bool }
)

func (work) Key() string { return "k" }

func (v verdict) Validate() error {
	if v.Damaged {
		return errNoPhoto
	}
	return nil
}

var errNoPhoto = errors.New("a photo is needed")

var returning = saga.Definition[parcel]{
	Name: "returning", Version: 1, Start: saga.Event[returned, parcel](),
	Steps: []saga.Step[parcel]{{Name: "inspect parcel", Timeout: time.Hour, Signal: &saga.Signal[parcel]{
		Name: "inspection", Roles: []string{"inspector", "operator"}, Received: saga.Event[verdict, parcel](),
	}}},
	OnCompensated: saga.FinalStep[parcel]{Name: "close", Timeout: time.Minute, Completed: saga.Event[closed, parcel](), Action: func(parcel, string) cqrs.Keyed { return work{} }},
}

// streams holds histories in memory.
type streams map[string][]cqrs.Event

func (s streams) History(_ context.Context, _, id string) ([]cqrs.Event, error) {
	if len(s[id]) == 0 {
		return nil, cqrs.ErrNotFound
	}
	return s[id], nil
}

func (s streams) Record(_ context.Context, _, id string, _ int, facts []any) error {
	for _, f := range facts {
		s[id] = append(s[id], cqrs.Event{Body: f})
	}
	return nil
}

// sent discards commands and timers.
type sent struct{}

func (sent) Send(context.Context, cqrs.Command) error    { return nil }
func (sent) Execute(context.Context, cqrs.Command) error { return nil }

func TestSignalNeedsARole(t *testing.T) {
	s := saga.New(returning)
	require.NoError(t, s.Check())
	id := saga.ID("returning", "r-1")
	as := func(p cqrs.Principal) (streams, func(signal, payload string) error) {
		all := streams{}
		m := &manager.Manager{Sagas: []*saga.Saga{s}, Streams: all, Commands: sent{}}
		require.NoError(t, m.Event(context.Background(), s, cqrs.Event{Body: returned{"r-1"}, Key: "r-1"}))
		return all, func(signal, payload string) error {
			return m.Signal(cqrs.WithPrincipal(context.Background(), p), id, signal, func(v any) error { return json.Unmarshal([]byte(payload), v) })
		}
	}
	for _, p := range []cqrs.Principal{{Subject: "ada", Roles: "clerk inspector"}, {Subject: "ada", Operator: true}, cqrs.Guest} {
		all, signal := as(p)
		require.NoError(t, signal("inspection", `{}`))
		received := all[id][2].Body.(saga.SignalReceived)
		require.Equal(t, p.Subject, received.By)
		require.Equal(t, saga.StatusCompleted, saga.Rebuild(id, all[id]).Status)
		require.ErrorIs(t, signal("inspection", `{}`), saga.ErrNotAwaited)
	}
	for _, p := range []cqrs.Principal{{Subject: "ada"}, {Subject: "ada", Roles: "inspectors"}, {Subject: "guest", Roles: "*"}, {}} {
		all, signal := as(p)
		require.ErrorIs(t, signal("inspection", `{}`), manager.ErrRole, "%+v", p)
		require.Len(t, all[id], 2)
	}
	_, signal := as(cqrs.Guest)
	require.ErrorIs(t, signal("other", `{}`), cqrs.ErrNotFound)
	require.Error(t, signal("inspection", `{`))
	require.ErrorIs(t, signal("inspection", `{"damaged":true}`), errNoPhoto)
}
