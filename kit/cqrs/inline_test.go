package cqrs

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A confirmation is valid once, and only for a short time.
func TestConfirmation(t *testing.T) {
	ctx := WithConfirmation(context.Background(), time.Now(), true)
	require.True(t, OrderConfirmed(ctx))
	require.False(t, OrderConfirmed(ctx))
	require.True(t, InboxConfirmed(ctx))
	require.False(t, InboxConfirmed(ctx))
	require.False(t, InboxConfirmed(WithConfirmation(context.Background(), time.Now(), false)))
	require.False(t, OrderConfirmed(context.Background()))
	old := WithConfirmation(context.Background(), time.Now().Add(-confirmedFor), true)
	require.False(t, OrderConfirmed(old))
	require.False(t, InboxConfirmed(old))
}
