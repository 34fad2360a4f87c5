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
				return r.config.Subscriber(group)
			},
			Marshaler: destination{r.config.Marshaler, name}, Logger: r.config.Watermill,
		})
		if err != nil {
			return err
		}
		d := &dispatcher{router: r, group: group, destination: name, endpoints: map[reflect.Type]app.Endpoint{}}
		for goType, h := range byType {
			d.endpoints[goType] = r.config.Decorate(h.Type.Name, d.endpoint(h))
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
	router      *Router
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

// endpoint handles one type of command: ask outside first, if it must and there is a point to it, then record.
func (d *dispatcher) endpoint(h app.Handler) app.Endpoint {
	inbox := d.router.config.Inbox
	return func(ctx context.Context, body any) (outcome any, err error) {
		delivery := app.Delivery{
			Consumer: d.group, Meta: app.MetaOf(ctx), Command: true, Category: d.destination, Key: body.(app.Keyed).Key(), Asked: h.Ask != nil,
		}
		handle, answer := h.Handle, any(nil)
		if h.Ask != nil {
			worthwhile, err := inbox.Peek(ctx, delivery)
			if err != nil {
				return nil, err
			}
			if worthwhile {
				if answer, err = h.Ask(ctx, body); err != nil {
					return nil, err
				}
			} else {
				// Somebody has handled it meanwhile, or nobody must: the inbox notes which.
				handle = func(context.Context, any, any) error { return errUnasked }
			}
		}
		return inbox.Handle(ctx, delivery, func(ctx context.Context) error { return handle(ctx, body, answer) })
	}
}

// errUnasked makes a command come again whose answer is missing although the inbox lets it through after all: the message
// that stood in its way was rolled back.
var errUnasked = fmt.Errorf("not asked yet: %w", app.ErrConflict)
