package messages

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/aggregate"
	"github.com/millrace/millrace/ports/messages/warehousepb"
)

type arrived struct {
	SKU      string
	Quantity int64
}

// A message goes out as Protocol Buffers and comes back the same; it is understood in JSON as well, and what is neither is poison.
func TestProtobufBothWays(t *testing.T) {
	codec := Protobuf("delivery.arrived",
		func(e arrived) *warehousepb.DeliveryArrived {
			return &warehousepb.DeliveryArrived{Sku: e.SKU, Quantity: e.Quantity}
		},
		func(p *warehousepb.DeliveryArrived) arrived { return arrived{p.GetSku(), p.GetQuantity()} })
	types := aggregate.TypesOf(aggregate.NewType[arrived]("delivery.arrived"))
	plain := NewMarshaler(types, "/warehouse")
	m := plain.In(codec)
	out, err := m.Marshal(app.Event{Body: arrived{"A", 7}, Category: "deliveries", Key: "A", Meta: app.Meta{ID: "1"}})
	require.NoError(t, err)
	require.Equal(t, "application/protobuf", out.Metadata.Get(app.HeaderContent))
	require.Equal(t, []byte{0x0a, 1, 'A', 0x10, 7}, []byte(out.Payload))
	require.Equal(t, "delivery.arrived", out.Metadata.Get(app.HeaderType))
	var back arrived
	require.NoError(t, m.Unmarshal(out, &back))
	require.Equal(t, arrived{"A", 7}, back)

	inJSON, err := plain.Marshal(app.Event{Body: arrived{"B", 8}, Category: "deliveries", Key: "B", Meta: app.Meta{ID: "2"}})
	require.NoError(t, err)
	require.NoError(t, m.Unmarshal(inJSON, &back))
	require.Equal(t, arrived{"B", 8}, back)

	out.Payload = []byte{0xff}
	require.ErrorIs(t, m.Unmarshal(out, &back), app.ErrPoison)
}
