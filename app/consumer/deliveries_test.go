package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/cqrs/cqrstest"
)

func TestDeliveriesAreTakenIntoStock(t *testing.T) {
	var commands cqrstest.Commands
	require.NoError(t, deliveries{&commands}.arrived(t.Context(), DeliveryArrived{SKU: "MUG-01", Quantity: 40}, cqrs.Meta{}))
	require.Equal(t, cqrstest.Commands{command.ReceiveStock{SKU: "MUG-01", Quantity: 40}}, commands)
}
