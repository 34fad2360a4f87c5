package messages

import (
	"context"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/app"
)

// CommandTopic is where commands for a destination go.
func CommandTopic(prefix, destination string) string { return prefix + ".commands." + destination }

// EventTopic is where events of a kind of aggregate go.
func EventTopic(prefix, category string) string { return prefix + ".events." + category }

// NewEventBus makes the bus that takes app.Event to its topic.
func NewEventBus(prefix string, publisher message.Publisher, m Marshaler, clock app.Clock, logger watermill.LoggerAdapter) (*cqrs.EventBus, error) {
	return cqrs.NewEventBusWithConfig(publisher, cqrs.EventBusConfig{
		GeneratePublishTopic: func(p cqrs.GenerateEventPublishTopicParams) (string, error) {
			return EventTopic(prefix, p.Event.(app.Event).Category), nil
		},
		OnPublish: func(p cqrs.OnEventSendParams) error { return complete(p.Message, clock) },
		Marshaler: m, Logger: logger,
	})
}

// complete gives an outgoing message what only its context knows: an id and a time if it has none, and the trace.
func complete(msg *message.Message, clock app.Clock) error {
	if msg.UUID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		msg.UUID = id.String()
		msg.Metadata[app.HeaderID] = msg.UUID
	}
	if msg.Metadata[app.HeaderCorrelation] == "" {
		msg.Metadata[app.HeaderCorrelation] = msg.UUID
	}
	if msg.Metadata[app.HeaderTime] == "0001-01-01T00:00:00Z" {
		msg.Metadata[app.HeaderTime] = stamp(clock())
	}
	otel.GetTextMapPropagator().Inject(msg.Context(), propagation.MapCarrier(msg.Metadata))
	return nil
}

// Commands implements app.Commands with Watermill's command bus.
type Commands struct {
	bus      *cqrs.CommandBus
	uow      app.UnitOfWork
	handlers map[reflect.Type]app.Handler
}

// NewCommands makes the bus that takes commands to their handlers. Others are the prefixes of other services' topics.
func NewCommands(prefix string, others map[string]string, publisher message.Publisher, m Marshaler, uow app.UnitOfWork, clock app.Clock, logger watermill.LoggerAdapter) (*Commands, error) {
	c := &Commands{uow: uow, handlers: map[reflect.Type]app.Handler{}}
	bus, err := cqrs.NewCommandBusWithConfig(publisher, cqrs.CommandBusConfig{
		GeneratePublishTopic: func(p cqrs.CommandBusGeneratePublishTopicParams) (string, error) {
			h, err := c.handler(p.Command.(app.Command).Body)
			if h.Service != "" {
				return CommandTopic(others[h.Service], h.Destination), err
			}
			return CommandTopic(prefix, h.Destination), err
		},
		OnSend:    func(p cqrs.CommandBusOnSendParams) error { return complete(p.Message, clock) },
		Marshaler: m, Logger: logger,
	})
	c.bus = bus
	return c, err
}

// Register tells the bus the handlers. It is apart from NewCommands because some handlers send commands themselves.
func (c *Commands) Register(handlers []app.Handler) {
	for _, h := range handlers {
		c.handlers[reflect.TypeOf(h.Type.New()).Elem()] = h
	}
}

func (c *Commands) handler(body any) (app.Handler, error) {
	h, ok := c.handlers[reflect.TypeOf(body)]
	if !ok {
		return h, fmt.Errorf("nobody handles the command %T", body)
	}
	return h, nil
}

// Destination is where a command goes; empty if nobody handles it.
func (c *Commands) Destination(body any) string { return c.handlers[reflect.TypeOf(body)].Destination }

// Send implements app.Commands.
func (c *Commands) Send(ctx context.Context, command app.Command) error {
	at := app.MetaOf(ctx)
	m := &command.Meta
	m.Causation = at.ID
	m.Correlation = at.Correlation
	if m.Trace == nil {
		m.Trace = at.Trace
	}
	return c.uow.Within(ctx, func(ctx context.Context) error { return c.bus.Send(ctx, command) })
}

// Execute implements app.Commands. A command whose handler asks a service outside cannot be executed here; it is sent.
func (c *Commands) Execute(ctx context.Context, command app.Command) error {
	h, err := c.handler(command.Body)
	if err != nil {
		return err
	}
	if h.Service != "" {
		return fmt.Errorf("%s is handled by %s: send it", h.Type.Name, h.Service)
	}
	if h.Ask != nil {
		return fmt.Errorf("%s asks a service outside: send it", h.Type.Name)
	}
	return c.uow.Within(ctx, func(ctx context.Context) error { return h.Handle(ctx, command.Body, nil) })
}
