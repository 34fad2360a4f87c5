package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
)

// Ping ends with its context, also if the brokers accept connections and do not answer.
func TestPingEndsWithItsContext(t *testing.T) {
	c := config(t)
	network := kittest.NewNetwork(t, c.Brokers[0])
	c.Brokers = []string{network.Address}
	require.NoError(t, kafka.Ping(t.Context(), c))
	network.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- kafka.Ping(ctx, c) }()
	require.Eventually(t, func() bool { return len(answered) == 1 }, 12*time.Second, 10*time.Millisecond) // without its context it takes 15 s and more
	require.Error(t, <-answered)
}
