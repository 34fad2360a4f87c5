package aggregate_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
)

type happened struct {
	First, Last string
	Age         int64
}

// Version 1 had one name; version 2 had two names and no age.
var types = aggregate.TypesOf(aggregate.NewType[happened]("it.happened",
	func(fields map[string]any) error {
		fields["First"], fields["Last"] = fields["Name"], "unknown"
		delete(fields, "Name")
		return nil
	},
	func(fields map[string]any) error {
		if fields["First"] == nil {
			return errors.New("no first name")
		}
		fields["Age"] = json.Number("42")
		return nil
	},
))

func TestEveryOlderVersionIsUpcasted(t *testing.T) {
	want := happened{"Ada", "unknown", 42}
	for version, stored := range map[int]string{
		1: `{"Name":"Ada"}`, 2: `{"First":"Ada","Last":"unknown"}`, 3: `{"First":"Ada","Last":"unknown","Age":42}`,
	} {
		got, err := types.Decode("it.happened", version, []byte(stored))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	registered, payload, err := types.Encode(want)
	require.NoError(t, err)
	require.Equal(t, 3, registered.Schema)
	again, err := types.Decode("it.happened", 3, payload)
	require.NoError(t, err)
	require.Equal(t, want, again)
}

func TestUndecodableMessageNamesTheFault(t *testing.T) {
	for name, c := range map[string]struct {
		name    string
		version int
		payload string
		want    string
		unknown bool
	}{
		"unknown name":   {"it.never.happened", 1, `{}`, `decode "it.never.happened": unknown type`, true},
		"newer version":  {"it.happened", 4, `{}`, "schema version 4, this program knows 1 to 3", true},
		"version 0":      {"it.happened", 0, `{}`, "schema version 0", true},
		"upcaster fails": {"it.happened", 1, `{}`, "upcast from schema version 2: no first name", false},
		"no JSON":        {"it.happened", 3, `{`, "decode it.happened: unexpected end of JSON input", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := types.Decode(c.name, c.version, []byte(c.payload))
			require.ErrorContains(t, err, c.want)
			require.Equal(t, c.unknown, errors.Is(err, aggregate.ErrUnknownType))
		})
	}
	_, _, err := types.Encode(struct{}{})
	require.ErrorIs(t, err, aggregate.ErrUnknownType)
}

func TestNamesAreRegisteredOnce(t *testing.T) {
	require.PanicsWithValue(t, "aggregate: the name a is registered twice", func() {
		aggregate.TypesOf(aggregate.NewType[struct{ A int }]("a"), aggregate.NewType[struct{ B int }]("a"))
	})
	require.Panics(t, func() { aggregate.Merge(types, types) })
}

// A NUL character in a stored payload is replaced when it is decoded: a read model's text column cannot hold it.
func TestStoredNULCharacterIsReplaced(t *testing.T) {
	type said struct {
		Text string `json:"text"`
	}
	types := aggregate.TypesOf(aggregate.NewType[said]("it.said"))
	for payload, want := range map[string]string{
		`{"text":"a\u0000b\u0000"}`: "a\uFFFDb\uFFFD",
		`{"text":"a\\u0000b"}`:      `a\u0000b`,
		`{"text":"\\\u0000\"\\"}`:   "\\\uFFFD\"\\",
	} {
		v, err := types.Decode("it.said", 1, []byte(payload))
		require.NoError(t, err)
		require.Equal(t, said{want}, v, payload)
	}
}
