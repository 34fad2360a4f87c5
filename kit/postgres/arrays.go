package postgres

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// arrays encodes arrays of texts and of bytes, the parameters of statements for many rows. It allocates the buffer once, at its final size.
// pgx's codec, which encodes all other values, plans each element and grows the buffer step by step.
type arrays struct {
	pgtype.Codec
	element uint32 // the OID of its type
}

// prepare makes a new connection use arrays.
func prepare(_ context.Context, conn *pgx.Conn) error {
	register(conn.TypeMap())
	return nil
}

func register(types *pgtype.Map) {
	for _, oid := range [...]struct{ array, element uint32 }{{pgtype.TextArrayOID, pgtype.TextOID}, {pgtype.ByteaArrayOID, pgtype.ByteaOID}} {
		t, _ := types.TypeForOID(oid.array) // pgx brings both
		types.RegisterType(&pgtype.Type{Name: t.Name, OID: t.OID, Codec: arrays{t.Codec, oid.element}})
	}
}

// PlanEncode implements pgtype.Codec.
func (a arrays) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if format == pgtype.BinaryFormatCode {
		switch value.(type) {
		case []string:
			return textArray(a.element)
		case [][]byte:
			return bytesArray(a.element)
		}
	}
	return a.Codec.PlanEncode(m, oid, format, value)
}

type (
	textArray  uint32 // the OID of an element's type
	bytesArray uint32
)

// Encode implements pgtype.EncodePlan.
func (oid textArray) Encode(value any, buf []byte) ([]byte, error) {
	elements := value.([]string)
	size := 0
	for _, e := range elements {
		size += len(e)
	}
	buf = header(buf, uint32(oid), len(elements), size, false)
	for _, e := range elements {
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(e))), e...) //nolint:gosec // PostgreSQL takes no more than 1 GB
	}
	return buf, nil
}

// Encode implements pgtype.EncodePlan. An element that is nil is null.
func (oid bytesArray) Encode(value any, buf []byte) ([]byte, error) {
	elements := value.([][]byte)
	size, null := 0, false
	for _, e := range elements {
		size += len(e)
		null = null || e == nil
	}
	buf = header(buf, uint32(oid), len(elements), size, null)
	for _, e := range elements {
		if e == nil {
			buf = binary.BigEndian.AppendUint32(buf, 1<<32-1)
			continue
		}
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(e))), e...) //nolint:gosec // PostgreSQL takes no more than 1 GB
	}
	return buf, nil
}

// header begins an array of one dimension (array_recv in PostgreSQL's arrayfuncs.c), with room for its elements, which have so many bytes.
func header(buf []byte, element uint32, elements, size int, null bool) []byte {
	buf = slices.Grow(buf, 20+4*elements+size)
	nulls := uint32(0)
	if null {
		nulls = 1
	}
	for _, field := range [...]uint32{1, nulls, element, uint32(elements), 1} { //nolint:gosec // as many as were made here; dimensions and lower bound are 1
		buf = binary.BigEndian.AppendUint32(buf, field)
	}
	return buf
}
