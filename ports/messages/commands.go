package messages

import (
	"context"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/app"
)

// incoming is any command of one destination. Watermill's CommandProcessor subscribes once a command type, and drops types
// that it does not know; with one type for all commands of a destination it subscribes once a destination, so that their
// order is kept, and drops nothing.
type incoming struct{ body any }

// destination is a marshaler for incoming.
type destination struct {
	Marshaler
	name string
}

func (d destination) Name(any) string { return d.name }

func (d destination) NameFromMessage(*message.Message) string { return d.name }

func (d destination) Unmarshal(msg *message.Message, v any) (err error) {
	v.(*incoming).body, err = d.decode(msg)
	return err
}

// AddCommands has the commands of each destination handled.
func (r *Router) AddCommands(handlers []app.Handler) error {
	destinations := map[string]map[reflect.Type]app.Handler{}
	for _, h := range handlers {
		if h.Service != "" {
			continue
		}
		if destinations[h.Destination] == nil {
			destinations[h.Destination] = map[reflect.Type]app.Handler{}
		}
		destinations[h.Destination][reflect.TypeOf(h.Type.New()).Elem()] = h
	}
	for name, byType := range destinations {
		group := r.config.Prefix + ".commands." + name
		processor, err := cqrs.NewCommandProcessorWithConfig(r.Router, cqrs.CommandProcessorConfig{
			GenerateSubscribeTopic: func(cqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
				return CommandTopic(r.config.Prefix, name), nil
			},
			SubscriberConstructor: func(cqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
				return r.config.Subscriber(group, "", r.announce(group, r.config.Expect, true))
			},
			Marshaler: destination{r.config.Marshaler, name}, Logger: r.config.Watermill,
		})
		if err != nil {
			return err
		}
		d := &dispatcher{group: group, destination: name, endpoints: map[reflect.Type]app.Endpoint{}}
		for goType, h := range byType {
			r.categories[group] = h.Category
			d.endpoints[goType] = r.config.Decorate(h.Type.Name, app.Serve(r.config.Inbox, h, group))
		}
		added, err := processor.AddHandler(d)
		if err != nil {
			return err
		}
		if breaker, ok := r.config.Breakers[name]; ok {
			added.AddMiddleware(breaker)
		}
	}
	return nil
}

// dispatcher is the cqrs.CommandHandler of a destination.
type dispatcher struct {
	group       string
	destination string
	endpoints   map[reflect.Type]app.Endpoint
}

// HandlerName implements cqrs.CommandHandler.
func (d *dispatcher) HandlerName() string { return d.group }

// NewCommand implements cqrs.CommandHandler.
func (d *dispatcher) NewCommand() any { return &incoming{} }

// Handle implements cqrs.CommandHandler.
func (d *dispatcher) Handle(ctx context.Context, command any) error {
	body := command.(*incoming).body
	endpoint, ok := d.endpoints[reflect.TypeOf(body)]
	if !ok {
		return fmt.Errorf("%s is no command for %s: %w", app.MetaOf(ctx).Type, d.destination, app.ErrPoison)
	}
	_, err := endpoint(ctx, body)
	return err
}
