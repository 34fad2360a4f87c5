package messaging

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// slowQueue is a key queue whose database does not answer: each call returns when its context is done.
type slowQueue struct{ KeyQueue }

func (slowQueue) Enqueue(ctx context.Context, _ cqrs.Received) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

func (slowQueue) Complete(ctx context.Context, _ cqrs.Received) error {
	<-ctx.Done()
	return ctx.Err()
}

// A rebalance cancels the contexts of messages in flight. If the key of such a message cannot be looked up, KeyOrder must give up: otherwise the
// message would keep its partition, and the consumer group could never rebalance.
func TestRebalanceEndsTheLookUpOfAKey(t *testing.T) {
	keyOrder := KeyOrder(slowQueue{}, Options{Log: slog.New(slog.DiscardHandler)})
	for name, handle := range map[string]func(msg *message.Message) error{
		"look-up": func(msg *message.Message) error {
			_, err := keyOrder(func(*message.Message) ([]*message.Message, error) { panic("its key is unknown") })(msg)
			return err
		},
		"redelivery": func(msg *message.Message) error {
			msg.SetContext(cqrs.WithRedelivery(msg.Context(), cqrs.Redelivery{}))
			_, err := keyOrder(func(*message.Message) ([]*message.Message, error) { return nil, nil })(msg)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			session, rebalance := context.WithCancel(t.Context())
			msg := message.NewMessage("1", nil)
			msg.SetContext(session)
			handled := make(chan error, 1)
			go func() { handled <- handle(msg) }()
			rebalance()
			select {
			case err := <-handled:
				require.ErrorIs(t, err, context.Canceled, "so that the broker delivers it again")
			case <-time.After(5 * time.Second):
				t.Fatal("the message is still tried after its session has ended")
			}
		})
	}
}
