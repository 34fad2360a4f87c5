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

// CommandTopic is where commands for a destination go.
func CommandTopic(prefix, destination string) string { return prefix + ".commands." + destination }

// EventTopic is where events of a kind of aggregate go.
func EventTopic(prefix, category string) string { return prefix + ".events." + category }

// NewEventBus makes the bus that takes cqrs.Event to its topic.
func NewEventBus(prefix string, publisher message.Publisher, m Marshaler, clock cqrs.Clock, logger watermill.LoggerAdapter) (*wcqrs.EventBus, error) {
	return wcqrs.NewEventBusWithConfig(publisher, wcqrs.EventBusConfig{
		GeneratePublishTopic: func(p wcqrs.GenerateEventPublishTopicParams) (string, error) {
			return EventTopic(prefix, p.Event.(cqrs.Event).Category), nil
		},
		OnPublish: func(p wcqrs.OnEventSendParams) error { return complete(p.Message, clock) },
		Marshaler: m, Logger: logger,
	})
}

// complete gives an outgoing message what only its context knows: an id and a time if it has none, and the trace.
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

// Commands implements cqrs.Commands with Watermill's command bus.
type Commands struct {
	bus      *wcqrs.CommandBus
	uow      cqrs.UnitOfWork
	handlers map[reflect.Type]cqrs.Handler
}

// NewCommands makes the bus that takes commands to their handlers. Others are the prefixes of other services' topics.
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

// Register tells the bus the handlers. It is apart from NewCommands because some handlers send commands themselves.
func (c *Commands) Register(handlers []cqrs.Handler) {
	for _, h := range handlers {
		c.handlers[reflect.TypeOf(h.Type.New()).Elem()] = h
	}
}

func (c *Commands) handler(body any) (cqrs.Handler, error) {
	h, ok := c.handlers[reflect.TypeOf(body)]
	if !ok {
		return h, fmt.Errorf("nobody handles the command %T", body)
	}
	return h, nil
}

// Destination is where a command goes; empty if nobody handles it.
func (c *Commands) Destination(body any) string { return c.handlers[reflect.TypeOf(body)].Destination }

// Send implements cqrs.Commands.
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

// Execute implements cqrs.Commands. A command whose handler asks a service outside cannot be executed here; it is sent.
func (c *Commands) Execute(ctx context.Context, command cqrs.Command) error {
	h, err := c.handler(command.Body)
	if err != nil {
		return err
	}
	if h.Service != "" {
		return fmt.Errorf("%s is handled by %s: send it", h.Type.Name, h.Service)
	}
	if h.Call != nil {
		return fmt.Errorf("%s asks a service outside: send it", h.Type.Name)
	}
	return c.uow.Within(ctx, func(ctx context.Context) error { return h.Handle(ctx, command.Body, nil) })
}
