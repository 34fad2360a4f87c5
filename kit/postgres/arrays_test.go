package postgres

import (
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"pgregory.net/rapid"
)

// TestArraysAreEncodedAlike compares with the codec that pgx brings.
func TestArraysAreEncodedAlike(t *testing.T) {
	ours, theirs := pgtype.NewMap(), pgtype.NewMap()
	register(ours)
	rapid.Check(t, func(t *rapid.T) {
		begun := rapid.SliceOf(rapid.Byte()).Draw(t, "begun")
		texts := rapid.SliceOf(rapid.String()).Draw(t, "texts")
		nullable := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Just([]byte(nil)))
		for oid, value := range map[uint32]any{pgtype.TextArrayOID: texts, pgtype.ByteaArrayOID: rapid.SliceOf(nullable).Draw(t, "bytes")} {
			want, err := theirs.Encode(oid, pgtype.BinaryFormatCode, value, append([]byte{}, begun...))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ours.Encode(oid, pgtype.BinaryFormatCode, value, append([]byte{}, begun...))
			if err != nil || string(got) != string(want) {
				t.Fatalf("%v: %x, %v; want %x", value, got, err, want)
			}
		}
	})
}
