package messaging

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"time"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// Unit is a unit of work with an inbox: postgres.UnitOfWork.
type Unit interface {
	cqrs.UnitOfWork
	cqrs.Inbox
}

// Middleware is KeyOrder, DeadLetters, Retry and Inbox in the order in which a router, or a handler of it, needs them.
func Middleware(queue KeyQueue, unit Unit, o Options) []message.HandlerMiddleware {
	return []message.HandlerMiddleware{KeyOrder(queue, o), DeadLetters(queue, unit, o), Retry(queue, o), Inbox(unit)}
}

// Inbox runs the handler of an event in a unit of work in which the message's inbox row is written. A message whose row exists was handled
// before: it is acknowledged, and the handler is not called. The consumer is the name of the router's handler, the message's id its header
// ce_id, or else its UUID. The handler gets the unit of work in its context: stores, and buses whose publisher is an outbox.Publisher, write in
// it. Messages that the handler returns are published after the commit, not in it.
//
// The handler runs again after a conflict, so it must have no effects beside those of the unit of work. Add it innermost, inside Retry. The
// handlers of Router use the same inbox by cqrs.Serve, because a handler that calls an external service does so before the unit of work begins.
func Inbox(inbox cqrs.Inbox) message.HandlerMiddleware {
	return inboxOf(inbox, func(msg *message.Message) cqrs.Delivery {
		return cqrs.Delivery{Consumer: message.HandlerNameFromCtx(msg.Context())}
	})
}

// CommandInbox is Inbox for the handlers of the commands that a saga sends to a category of aggregates, which is also the consumer: the handlers
// of an action and of its compensation must have the same one. A compensation whose action was never handled is not handled, and
// keeps the action from being handled later. A handler that publishes no event answers the saga by ProcessedAnswer, and one that returns an
// aggregate.Refuse error by RefusedAnswer. The unit of work publishes these answers.
func CommandInbox(inbox cqrs.Inbox, category string) message.HandlerMiddleware {
	return inboxOf(inbox, func(msg *message.Message) cqrs.Delivery {
		return cqrs.Delivery{Consumer: category, Command: true, Category: category, Key: msg.Metadata[cqrs.HeaderKey]}
	})
}

func inboxOf(inbox cqrs.Inbox, delivery func(*message.Message) cqrs.Delivery) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (produced []*message.Message, err error) {
			outer := msg.Context()
			defer func() { msg.SetContext(outer) }()
			d := delivery(msg)
			if d.Meta, err = metaOf(outer, msg); err != nil {
				return nil, err
			}
			_, err = inbox.Handle(outer, d, func(ctx context.Context) (err error) {
				msg.SetContext(ctx)
				produced, err = next(msg)
				return err
			})
			if err != nil {
				return nil, err
			}
			return produced, nil
		}
	}
}

// metaOf returns the metadata of a message, reading it if it is not in the context.
func metaOf(ctx context.Context, msg *message.Message) (cqrs.Meta, error) {
	if m := cqrs.MetaFromContext(ctx); m.ID != "" {
		return m, nil
	}
	return readMeta(msg, reading{saga: true, key: true, plain: true})
}

// outgoing is what CommandsFromBus and EventsFromBus know of a message that Watermill's bus makes.
type outgoing struct {
	meta cqrs.Meta
	key  string
	due  time.Time
}

type outgoingKey struct{}

// OnSend is the hook of Watermill's command bus that writes the headers of the kit: the id, the key, which is that of a cqrs.Keyed command, and
// correlation, causation and trace, which are those of the message that is handled.
func OnSend(p wcqrs.CommandBusOnSendParams) error {
	return writeHeaders(p.Message, p.Command, func(cqrs.Meta) cqrs.Meta { return cqrs.Meta{} })
}

// OnPublish is the hook of Watermill's event bus that writes the headers of the kit: those that OnSend writes, and those by which the saga
// that has sent the handled command finds the answer.
func OnPublish(p wcqrs.OnEventSendParams) error {
	return writeHeaders(p.Message, p.Event, func(at cqrs.Meta) cqrs.Meta {
		return cqrs.Meta{SagaID: at.SagaID, SagaStep: at.SagaStep, Branch: at.Branch}
	})
}

func writeHeaders(msg *message.Message, body any, answer func(at cqrs.Meta) cqrs.Meta) error {
	out, known := msg.Context().Value(outgoingKey{}).(outgoing)
	at := cqrs.MetaFromContext(msg.Context())
	if !known {
		out.meta = answer(at)
	}
	if keyed, ok := body.(cqrs.Keyed); ok {
		out.key = keyed.Key()
	}
	m := out.meta
	if m.ID != "" {
		msg.UUID = m.ID
	}
	for _, h := range [...]header{
		{cqrs.HeaderID, msg.UUID}, {cqrs.HeaderKey, out.key}, {cqrs.HeaderDue, stamp(out.due)}, {cqrs.HeaderTime, stamp(m.Time)}, {cqrs.HeaderExpires, stamp(m.ExpiresAt)},
		{cqrs.HeaderCausation, cmp.Or(m.Causation, at.ID)}, {cqrs.HeaderCorrelation, cmp.Or(m.Correlation, at.Correlation, at.ID)},
		{cqrs.HeaderSagaID, m.SagaID}, {cqrs.HeaderSagaStep, m.SagaStep}, {cqrs.HeaderBranch, string(m.Branch)},
		{cqrs.HeaderTrace, cmp.Or(m.Trace[cqrs.HeaderTrace], at.Trace[cqrs.HeaderTrace])},
	} {
		if h.value != "" {
			msg.Metadata.Set(h.name, h.value)
		}
	}
	return cqrs.CheckText("key of "+reflect.TypeOf(body).String(), out.key, cqrs.MaxKey)
}

// CommandsFromBus sends the commands of sagas through Watermill's command bus, whose OnSend must be the function OnSend of this package, and
// whose publisher must be an outbox.Publisher: a timer is a command that stays in the outbox until it is due.
func CommandsFromBus(bus *wcqrs.CommandBus) cqrs.Commands { return commandsThrough{bus} }

type commandsThrough struct{ bus *wcqrs.CommandBus }

// Send implements cqrs.Commands.
func (c commandsThrough) Send(ctx context.Context, command cqrs.Command) error {
	return c.bus.Send(context.WithValue(ctx, outgoingKey{}, outgoing{meta: command.Meta, due: command.DueAt}), command.Body)
}

// Execute implements cqrs.Commands.
func (commandsThrough) Execute(context.Context, cqrs.Command) error {
	return errors.New("execute a command: Watermill's command bus only sends commands")
}

// EventsFromBus publishes the events of a unit of work, those of aggregates and the answers to sagas, through Watermill's event bus, whose
// OnPublish must be the function OnPublish of this package.
func EventsFromBus(bus *wcqrs.EventBus) Events { return eventsThrough{bus} }

type eventsThrough struct{ bus *wcqrs.EventBus }

// Publish implements Events.
func (e eventsThrough) Publish(ctx context.Context, event any) error {
	envelope, ok := event.(cqrs.Event)
	if !ok {
		return e.bus.Publish(ctx, event)
	}
	return e.bus.Publish(context.WithValue(ctx, outgoingKey{}, outgoing{meta: envelope.Meta, key: envelope.Key}), envelope.Body)
}

// SagaHandlers makes the handlers of a saga's events for an EventGroupProcessor of Watermill's, one for each type of event, and one for each
// answer that a participant may give by CommandInbox. Consumer is the name of the group. The event that starts an instance must have the
// subject as its key.
func SagaHandlers(consumer string, s *saga.Saga, m *manager.Manager, inbox cqrs.Inbox) (handlers []wcqrs.GroupEventHandler) {
	for _, t := range append(s.EventTypes(), saga.AnswerTypes()...) {
		handlers = append(handlers, typedHandler{t, func(ctx context.Context, body any) error {
			msg := wcqrs.OriginalMessageFromCtx(ctx)
			meta, err := metaOf(ctx, msg)
			if err != nil {
				return err
			}
			_, err = m.Receive(ctx, inbox, consumer, s, cqrs.Event{Body: body, Meta: meta, Key: msg.Metadata[cqrs.HeaderKey]})
			return err
		}})
	}
	return handlers
}

// inspecting is a marshaler that checks the text of payloads if they may come from outside.
func inspecting(m Marshaler, outer bool) wcqrs.CommandEventMarshaler {
	if outer {
		return inspector{m}
	}
	return m
}

type inspector struct{ Marshaler }

// Unmarshal implements wcqrs.CommandEventMarshaler.
func (m inspector) Unmarshal(msg *message.Message, v any) error {
	if err := m.Marshaler.Unmarshal(msg, v); err != nil {
		return err
	}
	return m.checkPayload(msg, v)
}

// typedHandler is a wcqrs.GroupEventHandler of a type that is known at run time.
type typedHandler struct {
	goType reflect.Type
	handle func(ctx context.Context, body any) error
}

// NewEvent implements wcqrs.GroupEventHandler.
func (h typedHandler) NewEvent() any { return reflect.New(h.goType).Interface() }

// Handle implements wcqrs.GroupEventHandler.
func (h typedHandler) Handle(ctx context.Context, event any) error {
	return h.handle(ctx, reflect.ValueOf(event).Elem().Interface())
}
