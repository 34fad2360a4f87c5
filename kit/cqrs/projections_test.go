package cqrs

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProjectionsGetNoNULCharacters(t *testing.T) {
	type inner struct {
		Text  string
		Bytes []byte
	}
	type event struct {
		Reason  string
		Lines   []inner
		Labels  map[string]any
		Pointer *inner
		Fixed   [2]string
		private string
	}
	given := event{"a\x00b", []inner{{"c\x00", []byte{0}}, {"d", nil}}, map[string]any{"k\x00": "v\x00", "n": nil}, &inner{Text: "\x00"}, [2]string{"x", "\x00y"}, "p\x00"}
	var got event
	p := Projection{On: []EventHandler{On(func(_ context.Context, e event, _ Meta) error { got = e; return nil })}}
	for _, h := range p.Handlers() {
		require.NoError(t, h.Handle(t.Context(), Event{Body: given}))
	}
	require.Equal(t, event{
		"a\uFFFDb", []inner{{"c\uFFFD", []byte{0}}, {"d", nil}}, map[string]any{"k\uFFFD": "v\uFFFD", "n": nil}, &inner{Text: "\uFFFD"}, [2]string{"x", "\uFFFDy"}, "p\x00",
	}, got)
	require.Equal(t, "a\x00b", given.Reason, "the event itself is not changed")
	require.Equal(t, "c\x00", given.Lines[0].Text)
}
