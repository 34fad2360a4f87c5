package consumer

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/kit/cqrs"
)

// sent are the commands that a reaction asks for.
type sent []any

func (s *sent) Send(_ context.Context, c cqrs.Command) error { *s = append(*s, c.Body); return nil }

func (s *sent) Execute(ctx context.Context, c cqrs.Command) error { return s.Send(ctx, c) }

func TestDeliveriesAreTakenIntoStock(t *testing.T) {
	var commands sent
	require.NoError(t, deliveries{&commands}.arrived(t.Context(), DeliveryArrived{SKU: "MUG-01", Quantity: 40}, cqrs.Meta{}))
	require.Equal(t, sent{command.ReceiveStock{SKU: "MUG-01", Quantity: 40}}, commands)
}
