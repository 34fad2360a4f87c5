package kafka_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
)

// Ping returns when its context is done, even if the brokers accept connections and do not answer.
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
	require.Eventually(t, func() bool { return len(answered) == 1 }, 12*time.Second, 10*time.Millisecond) // without its context, Ping takes 15 s and more
	require.Error(t, <-answered)
}

// Also while it connects: three brokers that do not answer take 9 s.
func TestPingEndsWhileItConnects(t *testing.T) {
	c := kafka.Config{Brokers: []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done() // as when packets are lost
		return nil, ctx.Err()
	}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- kafka.Ping(ctx, c) }()
	require.Eventually(t, func() bool { return len(answered) == 1 }, 5*time.Second, 10*time.Millisecond)
	require.Error(t, <-answered)
}

// All connections are opened by Config.Dial, those of the producer too.
func TestProducerConnectsByDial(t *testing.T) {
	c := config(t)
	name := topic(t, c)
	c.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("the network is cut") }
	require.Error(t, kafka.Ping(t.Context(), c))
	p := kafka.NewProducer(c, func() int { return kafka.DefaultLimit }, time.Now)
	defer p.Close()
	msg := message.NewMessage("m", []byte("x"))
	msg.Metadata = message.Metadata{cqrs.HeaderID: msg.UUID, cqrs.HeaderKey: "k"}
	require.ErrorContains(t, p.Send(t.Context(), []string{name}, []*message.Message{msg})[0], "the network is cut")
}
