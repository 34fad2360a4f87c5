package runner

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

type lend struct{ Lines []string }

func (lend) Key() string { return "k" }

type giveBack struct{}

func (giveBack) Key() string { return "k" }

// A command without a handler would leave its saga waiting for an answer that never comes.
func TestASagaThatSendsACommandNobodyHandlesIsRefusedAtStart(t *testing.T) {
	type data struct{ Lines []string }
	answered := saga.Event[saga.Completed, data]()
	lending := saga.New(saga.Definition[data]{
		Name: "lending", Version: 1, Start: saga.Event[saga.Started, data](),
		Steps: []saga.Step[data]{{
			Name: "lend book", Action: func(data) cqrs.Keyed { return lend{} }, Completed: answered, Timeout: time.Second,
			Compensation: func(data) cqrs.Keyed { return giveBack{} }, Compensated: answered,
		}},
		OnCompensated: saga.FinalStep[data]{Name: "say no", Action: func(d data, _ string) cqrs.Keyed { return lend{d.Lines[:1]} }, Completed: answered, Timeout: time.Second},
	})
	lends := cqrs.Handle("Lend", func(context.Context, lend) error { return nil })
	gives := cqrs.ExternalCommand[giveBack]("GiveBack") // an external service handles it

	err := (&Service{Sagas: []*saga.Saga{lending}}).checkSagas(nil)
	require.ErrorContains(t, err, `saga lending, step "lend book" sends runner.lend, which no handler is registered for`)
	require.ErrorContains(t, err, `saga lending, step "lend book (compensation)" sends runner.giveBack`)
	require.ErrorContains(t, (&Service{Sagas: []*saga.Saga{lending}}).checkSagas([]cqrs.Handler{lends}), "runner.giveBack")
	require.NoError(t, (&Service{Sagas: []*saga.Saga{lending}}).checkSagas([]cqrs.Handler{lends, gives}))
}

// A command that is registered twice, for example under its former name too, is refused with the way to rename it.
func TestCommandsOfOneTypeOrNameAreRefusedAtStart(t *testing.T) {
	handle := func(context.Context, lend) error { return nil }
	require.NoError(t, checkCommands([]cqrs.Handler{cqrs.Handle("Lend", handle).Formerly("LendBook")}))
	require.ErrorContains(t, checkCommands([]cqrs.Handler{cqrs.Handle("Lend", handle), cqrs.Handle("LendBook", handle)}),
		"commands Lend and LendBook have the same Go type runner.lend: to rename a command, register it once, under its new name, with Formerly(former name)")
	require.ErrorContains(t, checkCommands([]cqrs.Handler{cqrs.Handle("Lend", handle), cqrs.ExternalCommand[giveBack]("GiveBack").Formerly("Lend")}),
		"commands runner.lend and runner.giveBack have the same name Lend")
}
