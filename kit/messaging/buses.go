package messaging

import (
	"context"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/kit/cqrs"
)

// CommandTopic returns the name of the command topic of a destination.
func CommandTopic(prefix, destination string) string { return prefix + ".commands." + destination }

// EventTopic returns the name of the event topic of a type of aggregate.
func EventTopic(prefix, category string) string { return prefix + ".events." + category }

// NewEventBus makes Watermill's event bus for values of type cqrs.Event. It publishes each event on the event topic of its category.
func NewEventBus(prefix string, publisher message.Publisher, m Marshaler, clock cqrs.Clock, logger watermill.LoggerAdapter) (*wcqrs.EventBus, error) {
	return wcqrs.NewEventBusWithConfig(publisher, wcqrs.EventBusConfig{
		GeneratePublishTopic: func(p wcqrs.GenerateEventPublishTopicParams) (string, error) {
			return EventTopic(prefix, p.Event.(cqrs.Event).Category), nil
		},
		OnPublish: func(p wcqrs.OnEventSendParams) error { return complete(p.Message, clock) },
		Marshaler: m, Logger: logger,
	})
}

// complete adds an id, a correlation id and a time to an outgoing message that has none, and the trace of its context.
func complete(msg *message.Message, clock cqrs.Clock) error {
	if msg.UUID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		msg.UUID = id.String()
		msg.Metadata[cqrs.HeaderID] = msg.UUID
	}
	if msg.Metadata[cqrs.HeaderCorrelation] == "" {
		msg.Metadata[cqrs.HeaderCorrelation] = msg.UUID
	}
	if msg.Metadata[cqrs.HeaderTime] == "0001-01-01T00:00:00Z" {
		msg.Metadata[cqrs.HeaderTime] = stamp(clock())
	}
	otel.GetTextMapPropagator().Inject(msg.Context(), propagation.MapCarrier(msg.Metadata))
	return nil
}

// Commands implements cqrs.Commands with Watermill's command bus. Register must not run concurrently with the other methods.
type Commands struct {
	bus      *wcqrs.CommandBus
	uow      cqrs.UnitOfWork
	handlers map[reflect.Type]cqrs.Handler
}

// NewCommands makes the command bus. Prefixes are the topic prefixes of external services by their names. Call Register before the bus is used.
func NewCommands(prefix string, prefixes map[string]string, publisher message.Publisher, m Marshaler, uow cqrs.UnitOfWork, clock cqrs.Clock, logger watermill.LoggerAdapter) (*Commands, error) {
	c := &Commands{uow: uow, handlers: map[reflect.Type]cqrs.Handler{}}
	bus, err := wcqrs.NewCommandBusWithConfig(publisher, wcqrs.CommandBusConfig{
		GeneratePublishTopic: func(p wcqrs.CommandBusGeneratePublishTopicParams) (string, error) {
			h, err := c.handler(p.Command.(cqrs.Command).Body)
			if h.Service != "" {
				return CommandTopic(prefixes[h.Service], h.Destination), err
			}
			return CommandTopic(prefix, h.Destination), err
		},
		OnSend:    func(p wcqrs.CommandBusOnSendParams) error { return complete(p.Message, clock) },
		Marshaler: m, Logger: logger,
	})
	c.bus = bus
	return c, err
}

// Register adds the handlers of commands. It is separate from NewCommands because some handlers need the bus to send commands.
func (c *Commands) Register(handlers []cqrs.Handler) {
	for _, h := range handlers {
		c.handlers[reflect.TypeOf(h.Type.New()).Elem()] = h
	}
}

func (c *Commands) handler(body any) (cqrs.Handler, error) {
	h, ok := c.handlers[reflect.TypeOf(body)]
	if !ok {
		return h, fmt.Errorf("no handler for the command %T", body)
	}
	return h, nil
}

// Destination returns the destination of a command; empty if the command has no handler.
func (c *Commands) Destination(body any) string { return c.handlers[reflect.TypeOf(body)].Destination }

// Send implements cqrs.Commands. It sets the command's causation and correlation from the message that ctx handles. A command without a registered
// handler is an error.
func (c *Commands) Send(ctx context.Context, command cqrs.Command) error {
	at := cqrs.MetaFromContext(ctx)
	m := &command.Meta
	m.Causation = at.ID
	m.Correlation = at.Correlation
	if m.Trace == nil {
		m.Trace = at.Trace
	}
	return c.uow.Within(ctx, func(ctx context.Context) error { return c.bus.Send(ctx, command) })
}

// Execute implements cqrs.Commands. It returns an error for a command without a handler, for a command that another service handles, and for a
// command whose handler calls an external service, because such a call must not be made inside the caller's transaction. Use Send for the last two.
func (c *Commands) Execute(ctx context.Context, command cqrs.Command) error {
	h, err := c.handler(command.Body)
	if err != nil {
		return err
	}
	if h.Service != "" {
		return fmt.Errorf("%s is handled by %s: send it", h.Type.Name, h.Service)
	}
	if h.Call != nil {
		return fmt.Errorf("%s calls an external service: use Send", h.Type.Name)
	}
	return c.uow.Within(ctx, func(ctx context.Context) error { return h.Handle(ctx, command.Body, nil) })
}
