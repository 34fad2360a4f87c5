package messaging

import (
	"context"
	"maps"
	"reflect"
	"slices"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// AddCommands adds a consumer for each destination of the handlers. It ignores commands that another service handles.
func (r *Router) AddCommands(handlers []cqrs.Handler) error {
	destinations := map[string]map[reflect.Type]cqrs.Handler{}
	for _, h := range handlers {
		if h.Service != "" {
			continue
		}
		if destinations[h.Destination] == nil {
			destinations[h.Destination] = map[reflect.Type]cqrs.Handler{}
		}
		destinations[h.Destination][reflect.TypeOf(h.Type.New()).Elem()] = h
	}
	for name, byType := range destinations {
		group := r.config.Prefix + ".commands." + name
		r.calling[group] = slices.ContainsFunc(slices.Collect(maps.Values(byType)), func(h cqrs.Handler) bool { return h.Call != nil })
		// One group per destination: Watermill's CommandProcessor subscribes once for each type of command, so the commands of a key would lose their
		// order.
		processor, err := wcqrs.NewEventGroupProcessorWithConfig(r.Router, wcqrs.EventGroupProcessorConfig{
			GenerateSubscribeTopic: func(wcqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
				return CommandTopic(r.config.Prefix, name), nil
			},
			SubscriberConstructor: func(wcqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
				return r.subscriber(group)
			},
			Marshaler: inspecting(r.config.Marshaler, true), Logger: r.config.Watermill,
		})
		if err != nil {
			return err
		}
		var typed []wcqrs.GroupEventHandler
		r.types[group], r.former[group] = map[string]bool{}, map[string]string{}
		for goType, h := range byType {
			r.categories[group], r.types[group][h.Type.Name] = h.Category, true
			for _, former := range h.FormerNames {
				r.former[group][former] = h.Type.Name
			}
			serve := cqrs.Serve(r.config.Inbox, h, group)
			endpoint := r.config.Decorate(h.Type.Name, serve)
			typed = append(typed, typedHandler{goType, func(ctx context.Context, body any) error {
				if err := cqrs.CheckText("key of "+cqrs.MetaFromContext(ctx).Type, body.(cqrs.Keyed).Key(), cqrs.MaxKey); err != nil {
					return err
				}
				_, err := endpoint(ctx, body)
				return err
			}})
			r.addInlineCommand(name, group, h, serve)
		}
		r.consumers[group] = true
		if breaker, ok := r.config.Breakers[name]; ok {
			r.guards[group] = breaker
		}
		if err := processor.AddHandlersGroup(group, typed...); err != nil {
			return err
		}
	}
	return nil
}
