package cqrs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckTextNamesTheField(t *testing.T) {
	for value, want := range map[string]string{
		"":                            "",
		"order-1":                     "",
		"grün 🙂":                      "",
		strings.Repeat("é", MaxKey/2): "",
		"a\x00b":                      "Idempotency-Key: contains a NUL character",
		"a\xffb":                      "Idempotency-Key: is not valid UTF-8",
		"\xed\xa0\x80":                "Idempotency-Key: is not valid UTF-8", // a surrogate
		strings.Repeat("k", MaxKey+1): "Idempotency-Key: has 513 bytes, at most 512 are allowed",
	} {
		err := CheckText("Idempotency-Key", value, MaxKey)
		if want == "" {
			require.NoError(t, err, "%q", value)
			continue
		}
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, ErrPermanent)
		require.Equal(t, KindPermanent, KindOf(err))
		require.False(t, Retryable(err))
	}
	require.NoError(t, CheckText("payload", strings.Repeat("k", 10_000), 0))
}

func TestProtectReturnsAPanicAsAPermanentError(t *testing.T) {
	err := Protect(func() error { panic("out of range") })
	var panicked *PanicError
	require.ErrorAs(t, err, &panicked)
	require.Equal(t, "out of range", panicked.Value)
	require.Contains(t, panicked.Stack, "TestProtect")
	require.Equal(t, KindPermanent, KindOf(err))
	require.NoError(t, Protect(func() error { return nil }))
	require.ErrorIs(t, Protect(func() error { return ErrNotFound }), ErrNotFound)
}
