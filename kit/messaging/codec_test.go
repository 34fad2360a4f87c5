package messaging

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/typepb"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

type arrived struct {
	SKU      string
	Quantity int64
}

// A message is encoded as Protocol Buffers and decoded to the same value. A JSON payload is decoded too, and a payload in neither format is a
// permanent error.
func TestProtobufBothWays(t *testing.T) {
	codec := Protobuf("delivery.arrived",
		func(e arrived) *typepb.EnumValue { return &typepb.EnumValue{Name: e.SKU, Number: int32(e.Quantity)} }, // a generated type with the same fields
		func(p *typepb.EnumValue) arrived { return arrived{p.GetName(), int64(p.GetNumber())} })
	types := aggregate.TypesOf(aggregate.NewType[arrived]("delivery.arrived"))
	plain := NewMarshaler(types, "/warehouse")
	m := plain.In(codec)
	out, err := m.Marshal(cqrs.Event{Body: arrived{"A", 7}, Category: "deliveries", Key: "A", Meta: cqrs.Meta{ID: "1"}})
	require.NoError(t, err)
	require.Equal(t, "application/protobuf", out.Metadata.Get(cqrs.HeaderContent))
	require.Equal(t, []byte{0x0a, 1, 'A', 0x10, 7}, []byte(out.Payload))
	require.Equal(t, "delivery.arrived", out.Metadata.Get(cqrs.HeaderType))
	var back arrived
	require.NoError(t, m.Unmarshal(out, &back))
	require.Equal(t, arrived{"A", 7}, back)

	inJSON, err := plain.Marshal(cqrs.Event{Body: arrived{"B", 8}, Category: "deliveries", Key: "B", Meta: cqrs.Meta{ID: "2"}})
	require.NoError(t, err)
	require.NoError(t, m.Unmarshal(inJSON, &back))
	require.Equal(t, arrived{"B", 8}, back)

	out.Payload = []byte{0xff}
	require.ErrorIs(t, m.Unmarshal(out, &back), cqrs.ErrPermanent)
}
