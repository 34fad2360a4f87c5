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

// Unit is a unit of work with an inbox. postgres.UnitOfWork implements it.
type Unit interface {
	cqrs.UnitOfWork
	cqrs.Inbox
}

// Middleware returns KeyOrder, DeadLetters, Retry and Inbox in the order in which they must be added to a router or to one of its handlers.
func Middleware(queue KeyQueue, unit Unit, o Options) []message.HandlerMiddleware {
	return []message.HandlerMiddleware{KeyOrder(queue, o), DeadLetters(queue, unit, o), Retry(queue, o), Inbox(unit)}
}

// Inbox handles each message once. It runs the handler in a unit of work that also writes the message's inbox row. If the row exists, the message was
// handled before: it is acknowledged, and the handler is not called. The consumer is the name of the router's handler. The message's id is its header
// ce_id, or its UUID if it has no such header. The context of the handler holds the unit of work: stores, and buses whose publisher is an
// outbox.Publisher, write in it. Messages that the handler returns are published after the commit, outside the unit of work.
//
// The handler runs again after a conflict, so it must have no effects outside the unit of work. Add this middleware innermost, inside Retry. The
// handlers of Router do not need it: they use the same inbox through cqrs.Serve, so that a handler can call an external service before the unit of
// work begins.
func Inbox(inbox cqrs.Inbox) message.HandlerMiddleware {
	return inboxOf(inbox, func(msg *message.Message) cqrs.Delivery {
		return cqrs.Delivery{Consumer: message.HandlerNameFromCtx(msg.Context())}
	})
}

// CommandInbox is Inbox for the handlers of commands that a saga sends. Category is the type of aggregate that the commands change, and also the name
// of the consumer; the handlers of an action and of its compensation must have the same category. If a compensation arrives and its action was never
// handled, the compensation is not handled, and the action is not handled if it arrives later. If the handler publishes no event, the unit of work
// answers the saga with cqrs.ProcessedAnswer. If the handler returns an aggregate.Refuse error, the unit of work answers with cqrs.RefusedAnswer.
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

// metaOf returns the metadata in ctx, or reads it from the message if ctx has none.
func metaOf(ctx context.Context, msg *message.Message) (cqrs.Meta, error) {
	if m := cqrs.MetaFromContext(ctx); m.ID != "" {
		return m, nil
	}
	return readMeta(msg, reading{saga: true, key: true, plain: true})
}

// outgoing is the metadata that CommandsFromBus and EventsFromBus pass to the hooks of Watermill's buses.
type outgoing struct {
	meta cqrs.Meta
	key  string
	due  time.Time
}

type outgoingKey struct{}

// OnSend is a hook for Watermill's command bus. It writes the headers of this library: the id, the key of a cqrs.Keyed command, and the correlation,
// causation and trace of the message that is being handled. The error is that of cqrs.CheckText for the key.
func OnSend(p wcqrs.CommandBusOnSendParams) error {
	return writeHeaders(p.Message, p.Command, func(cqrs.Meta) cqrs.Meta { return cqrs.Meta{} })
}

// OnPublish is a hook for Watermill's event bus. It writes the headers that OnSend writes, and the saga headers of the command that is being handled,
// so that the saga which sent the command receives the event as its answer.
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

// CommandsFromBus sends the commands of sagas through Watermill's command bus. The OnSend hook of the bus must be the function OnSend of this
// package. Its publisher must be an outbox.Publisher, because a timer is a command that stays in the outbox until it is due.
func CommandsFromBus(bus *wcqrs.CommandBus) cqrs.Commands { return commandsThrough{bus} }

type commandsThrough struct{ bus *wcqrs.CommandBus }

// Send implements cqrs.Commands.
func (c commandsThrough) Send(ctx context.Context, command cqrs.Command) error {
	return c.bus.Send(context.WithValue(ctx, outgoingKey{}, outgoing{meta: command.Meta, due: command.DueAt}), command.Body)
}

// Execute implements cqrs.Commands. It always returns an error, because the bus only sends commands.
func (commandsThrough) Execute(context.Context, cqrs.Command) error {
	return errors.New("execute a command: Watermill's command bus only sends commands")
}

// EventsFromBus publishes the events of a unit of work through Watermill's event bus: the events of aggregates and the answers to sagas. The
// OnPublish hook of the bus must be the function OnPublish of this package.
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

// SagaHandlers makes the handlers of a saga's events for Watermill's EventGroupProcessor: one for each type of event, and one for each answer that a
// participant may give through CommandInbox. Consumer is the name of the group. The key of the event that starts an instance must be the subject
// of the instance.
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

// inspecting returns a marshaler that also checks the text in payloads if they may come from outside.
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

// typedHandler is a wcqrs.GroupEventHandler for a type that is known only at run time.
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
