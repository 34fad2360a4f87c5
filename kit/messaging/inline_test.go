package messaging

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

type begun struct {
	Key string `json:"key"`
}

type doIt struct{ ID string }

func (c doIt) Key() string { return c.ID }

// The consumers of a saga on topics of this service may handle events inline, and trust the header that names consumers. Consumers on topics of
// another service do not trust the header: with it, the other service could prevent a saga from receiving its events.
func TestOnlyOwnEventsAreHandledInline(t *testing.T) {
	definition := saga.New(saga.Definition[begun]{
		Name: "process", Version: 1, Start: saga.On(func(data *begun, e begun) { *data = e }),
		Steps: []saga.Step[begun]{{Name: "step", Action: func(d begun) cqrs.Keyed { return doIt{d.Key} }}},
	})
	known := aggregate.Merge(aggregate.TypesOf(aggregate.NewType[begun]("note.begun")), saga.Answers)
	processed, _ := known.Of(cqrs.ProcessedAnswer{})
	answer := processed.Name
	log := slog.New(slog.DiscardHandler)
	subscriptions := map[string]Subscription{}
	r, err := NewRouter(Config{
		Prefix: "own", Marshaler: NewMarshaler(known, ""), Log: log, Watermill: NewLogger(log),
		Decorate: func(_ string, next cqrs.Endpoint) cqrs.Endpoint { return next },
		Subscriber: func(group string, s Subscription) (message.Subscriber, error) {
			subscriptions[group] = s
			return nil, nil //nolint:nilnil // it is not run
		},
		KeyQueue: noQueue{},
	})
	require.NoError(t, err)
	types := append(definition.EventTypes(), saga.AnswerTypes()...)
	m := &manager.Manager{Sagas: []*saga.Saga{definition}}
	require.NoError(t, r.AddSaga(definition, m, []Source{
		{Category: "notes", Types: types}, {Category: "notes", Types: types[:1], Service: "other", Prefix: "other", Known: known},
	}))
	require.Len(t, r.Inline(), 1)
	c := r.Inline()[0]
	require.Equal(t, []string{"process", "own.saga.process.notes", "notes"}, []string{c.Name, c.Consumer, c.Category})
	headers := func(more ...string) message.Metadata {
		h := message.Metadata{cqrs.HeaderType: "note.begun"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	require.Len(t, subscriptions, 2)
	require.Nil(t, subscriptions["own.saga.process.other.notes"].Skip)
	own := subscriptions["own.saga.process.notes"]
	require.NotNil(t, own.Skip)
	skips := func(h message.Metadata) bool { return own.Skip(func(name string) string { return h[name] }) }
	for _, h := range []message.Metadata{
		headers(cqrs.HeaderHandledBy, "another,process"), // the saga has handled it
		headers(cqrs.HeaderType, answer),
		headers(cqrs.HeaderType, answer, cqrs.HeaderSagaID, "s", cqrs.HeaderSagaStep, "of another definition"),
	} {
		require.True(t, skips(h), "%v", h)
	}
	for _, h := range []message.Metadata{
		{}, headers(), headers(cqrs.HeaderHandledBy, "another,process of another name"), headers(cqrs.HeaderType, "unknown"),
		headers(cqrs.HeaderType, answer, cqrs.HeaderSagaID, "s", cqrs.HeaderSagaStep, "step"),
	} {
		require.False(t, skips(h), "%v", h)
	}
	for _, all := range []bool{false, true} {
		m.StartsInline = func() bool { return all }
		for name, e := range map[string]cqrs.Event{
			"starts":       {Body: begun{"k"}, Key: "k", Meta: cqrs.Meta{Version: 1}},
			"starts later": {Body: begun{"k"}, Key: "k", Meta: cqrs.Meta{Version: 2}},
			"other type":   {Body: doIt{"k"}, Key: "k", Meta: cqrs.Meta{Version: 1}},
			"answer":       {Body: cqrs.ProcessedAnswer{}, Key: "k", Meta: cqrs.Meta{SagaID: "s", SagaStep: "step"}},
		} {
			concerns, inline := c.Takes(e)
			require.Equal(t, name != "other type", concerns, name)
			require.Equal(t, name == "answer" || name == "starts" && all, inline, name)
		}
	}
}

type (
	plain     struct{ doIt }
	committed struct{ doIt }
	calls     struct{ doIt }
	alongside struct{ doIt }
)

// A command may be handled in the transaction that sends it, unless its handler needs a commit of that transaction first, or a handler of its
// destination calls an external service, because its circuit breaker counts each attempt. A key that is too long and text that no table can store are
// left to the command's consumer.
func TestInlineCommandOfAHandler(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	inbox := &countingInbox{}
	handlers := append(cqrs.ForAggregate("notes",
		cqrs.Handle("Plain", func(context.Context, plain) error { return nil }),
		cqrs.Handle("Committed", func(context.Context, committed) error { return nil }).AfterItsCommit(),
	), cqrs.ForAggregate("calls",
		cqrs.CallThenRecord("Calls", func(context.Context, calls) (int, error) { return 0, nil }, func(context.Context, calls, int) error { return nil }),
		cqrs.Handle("Alongside", func(context.Context, alongside) error { return nil }),
	)...)
	var types []aggregate.Type
	for _, h := range handlers {
		types = append(types, h.Type)
	}
	r, err := NewRouter(Config{
		Prefix: "own", Marshaler: NewMarshaler(aggregate.TypesOf(types...), ""), Log: log, Watermill: NewLogger(log), Inbox: inbox, KeyQueue: noQueue{},
		Decorate:   func(_ string, next cqrs.Endpoint) cqrs.Endpoint { return next },
		Subscriber: func(string, Subscription) (message.Subscriber, error) { return nil, nil }, //nolint:nilnil // it is not run
	})
	require.NoError(t, err)
	require.NoError(t, r.AddCommands(handlers))
	command := func(name, payload string) *message.Message {
		msg := message.NewMessage("id", []byte(payload))
		msg.Metadata = message.Metadata{cqrs.HeaderID: "id", cqrs.HeaderType: name, cqrs.HeaderKey: "k"}
		return msg
	}
	for name, c := range map[string]struct {
		destination string
		inline      bool
	}{"Plain": {"notes", true}, "Committed": {"notes", false}, "Calls": {"calls", false}, "Alongside": {"calls", false}} {
		got := r.InlineCommand("own.commands."+c.destination, command(name, `{"ID":"k"}`))
		require.NotNil(t, got, name)
		require.Equal(t, []any{"own.commands." + c.destination, "id", c.inline}, []any{got.Consumer, got.Meta.ID, got.Handle != nil}, name)
	}
	require.Nil(t, r.InlineCommand("own.commands.calls", command("Plain", `{}`)), "it is for another destination")
	require.Nil(t, r.InlineCommand("own.events.notes", command("Plain", `{}`)))
	require.NoError(t, r.InlineCommand("own.commands.notes", command("Plain", `{"ID":"k"}`)).Handle(t.Context()))
	require.Equal(t, 1, inbox.handled)
	for _, payload := range []string{`null`, `{`, `{"ID":"a\u0000"}`, `{"ID":"` + strings.Repeat("x", cqrs.MaxKey+1) + `"}`} {
		require.Error(t, r.InlineCommand("own.commands.notes", command("Plain", payload)).Handle(t.Context()), payload)
	}
	require.Equal(t, 1, inbox.handled)
}

// countingInbox counts the messages that it receives.
type countingInbox struct {
	cqrs.Inbox
	handled int
}

func (i *countingInbox) Handle(context.Context, cqrs.Delivery, func(context.Context) error) (cqrs.Outcome, error) {
	i.handled++
	return cqrs.Processed, nil
}

type noQueue struct{ KeyQueue }

func (noQueue) Subscriber(_ string, inner message.Subscriber) message.Subscriber { return inner }
