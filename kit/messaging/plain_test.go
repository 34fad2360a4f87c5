package messaging_test

import (
	"testing"
	"time"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// A saga that sends a command over Watermill's bus receives one answer: the event that the handler publishes, or the answer of CommandInbox if the
// handler publishes none. A refusal discards the events that the handler published before.
func TestCommandInboxAnswersTheSagaOnce(t *testing.T) {
	db, _ := kittest.Database(t)
	events, err := wcqrs.NewEventBusWithConfig(outbox.NewPublisher(0, nil), wcqrs.EventBusConfig{
		GeneratePublishTopic: func(wcqrs.GenerateEventPublishTopicParams) (string, error) { return "events", nil },
		OnPublish:            messaging.OnPublish, Marshaler: wcqrs.JSONMarshaler{GenerateName: wcqrs.StructName},
	})
	require.NoError(t, err)
	uow := postgres.NewUnitOfWork(db, eventstore.New(db, aggregate.Types{}), messaging.EventsFromBus(events), time.Now)
	for want, handle := range map[string]func(msg *message.Message) error{
		"ItemPacked":      func(msg *message.Message) error { return events.Publish(msg.Context(), ItemPacked{"box-1", "cup"}) },
		"ProcessedAnswer": func(*message.Message) error { return nil },
		"RefusedAnswer": func(msg *message.Message) error {
			require.NoError(t, events.Publish(msg.Context(), ItemPacked{"box-1", "cup"}))
			return aggregate.Refuse("the box is full")
		},
	} {
		msg := message.NewMessage("command "+want, nil)
		msg.Metadata = message.Metadata{cqrs.HeaderSagaID: "saga", cqrs.HeaderSagaStep: want, cqrs.HeaderBranch: "do", cqrs.HeaderKey: "box-1"}
		_, err := messaging.CommandInbox(uow, "boxes")(func(msg *message.Message) ([]*message.Message, error) { return nil, handle(msg) })(msg)
		require.NoError(t, err)
		var names []string
		require.NoError(t, db.Select(&names, `SELECT headers->>'name' FROM outbox WHERE headers->>'`+cqrs.HeaderSagaStep+`' = $1
			AND headers->>'`+cqrs.HeaderCausation+`' = $2 AND headers->>'`+cqrs.HeaderID+`' = message_id`, want, msg.UUID))
		require.Equal(t, []string{want}, names)
	}
	var all int
	require.NoError(t, db.Get(&all, `SELECT count(*) FROM outbox`))
	require.Equal(t, 3, all)
}

// A message that does not belong to a saga's command has no saga headers, and keeps the correlation of the message that is being handled.
func TestOnSendKeepsTheCorrelation(t *testing.T) {
	msg := message.NewMessage("2", nil)
	msg.SetContext(cqrs.WithMeta(t.Context(), cqrs.Meta{ID: "1", Correlation: "0", SagaID: "saga", SagaStep: "step", Branch: cqrs.BranchAction}))
	require.NoError(t, messaging.OnSend(wcqrs.CommandBusOnSendParams{Command: ItemPacked{}, Message: msg}))
	require.Equal(t, message.Metadata{cqrs.HeaderID: "2", cqrs.HeaderCausation: "1", cqrs.HeaderCorrelation: "0"}, msg.Metadata)
}
