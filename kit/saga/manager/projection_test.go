package manager_test

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// rows keeps the last saved state of each instance. Like the table, it ignores the state of an older version.
type rows map[string]saga.State

func (r rows) Save(_ context.Context, s saga.State) error {
	if r[s.ID].Version < s.Version {
		r[s.ID] = s
	}
	return nil
}

// A child may be compensated after it was completed.
func TestProjectionOfAChildThatIsCompensatedLater(t *testing.T) {
	built := rows{}
	on := manager.Projection(built).Handlers()
	at := time.Now()
	for n, fact := range []any{
		saga.Started{Definition: "stay", Version: 1, Subject: "t-1", Steps: []string{"hold room"}, Next: &saga.CommandSent{Step: "hold room", Branch: cqrs.BranchAction, Attempt: 1}, Parent: &saga.Parent{SagaID: "p", Step: "book hotel", Root: "p"}},
		saga.StepCompleted{Step: "hold room"}, saga.Completed{},
		saga.CancelRequested{Reason: "no"},
		saga.CommandSent{Step: "hold room", Branch: cqrs.BranchCompensation, Attempt: 1},
		saga.StepCompensated{Step: "hold room", Next: &saga.CommandSent{Step: "close", Branch: cqrs.BranchAction, Attempt: 1}},
		saga.StepCompleted{Step: "close"}, saga.Compensated{Reason: "no"},
	} {
		h := on[reflect.TypeOf(fact)]
		require.NoError(t, h.Handle(t.Context(), cqrs.Event{Body: fact, Meta: cqrs.Meta{SagaID: "c", Version: n + 1, Time: at}}))
	}
	row := built["c"]
	require.Equal(t, []any{"stay", "t-1", saga.StatusCompensated, 8, &saga.Parent{SagaID: "p", Step: "book hotel", Root: "p"}}, []any{row.Definition, row.Subject, row.Status, row.Version, row.Parent})
}
