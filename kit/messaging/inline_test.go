package messaging

import (
	"log/slog"
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

// The consumers of a saga on topics of this service may handle events inline, and believe what the header of an event says. Those on topics of another service do not: it
// could keep a saga from receiving its events.
func TestOnlyOwnEventsAreHandledInline(t *testing.T) {
	definition := saga.New(saga.Definition[begun]{
		Name: "process", Version: 1, Start: saga.On(func(data *begun, e begun) { *data = e }),
		Steps: []saga.Step[begun]{{Name: "step", Action: func(d begun) cqrs.Keyed { return doIt{d.Key} }}},
	})
	known := aggregate.Merge(aggregate.TypesOf(aggregate.NewType[begun]("note.begun")), saga.Answers)
	processed, _ := known.Of(cqrs.ProcessedAnswer{})
	answer := processed.Name
	log := slog.New(slog.DiscardHandler)
	r, err := NewRouter(Config{
		Prefix: "own", Marshaler: NewMarshaler(known, ""), Log: log, Watermill: NewLogger(log),
		Decorate:   func(_ string, next cqrs.Endpoint) cqrs.Endpoint { return next },
		Subscriber: func(string, string, int) (message.Subscriber, error) { return nil, nil }, //nolint:nilnil // it is not run
		KeyQueue:   noQueue{},
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
	for consumer, own := range map[string]bool{"own.saga.process.notes": true, "own.saga.process.other.notes": false, "own.projection.notes": false, "own.commands.notes": false} {
		for _, h := range []message.Metadata{
			headers(cqrs.HeaderHandledBy, "another,process"), // it was handled
			headers(cqrs.HeaderType, answer),
			headers(cqrs.HeaderType, answer, cqrs.HeaderSagaID, "s", cqrs.HeaderSagaStep, "of another definition"),
		} {
			require.Equal(t, own, r.passes(consumer, h), "%s %v", consumer, h)
		}
		for _, h := range []message.Metadata{
			headers(), headers(cqrs.HeaderHandledBy, "another,process of another name"), headers(cqrs.HeaderType, "unknown"),
			headers(cqrs.HeaderType, answer, cqrs.HeaderSagaID, "s", cqrs.HeaderSagaStep, "step"),
		} {
			require.False(t, r.passes(consumer, h), "%s %v", consumer, h)
		}
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

type noQueue struct{ KeyQueue }

func (noQueue) Subscriber(_ string, inner message.Subscriber) message.Subscriber { return inner }
