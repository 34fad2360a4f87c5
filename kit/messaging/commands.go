package messaging

import (
	"maps"
	"reflect"
	"slices"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// AddCommands has the commands of each destination handled.
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
		group, expect := r.config.Prefix+".commands."+name, r.config.Expect
		if !slices.ContainsFunc(slices.Collect(maps.Values(byType)), func(h cqrs.Handler) bool { return h.Ask != nil }) {
			expect = nil
		}
		processor, err := wcqrs.NewCommandProcessorWithConfig(r.Router, wcqrs.CommandProcessorConfig{
			GenerateSubscribeTopic: func(wcqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
				return CommandTopic(r.config.Prefix, name), nil
			},
			SubscriberConstructor: func(wcqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
				return r.subscriber(group, expect)
			},
			Marshaler: subscription{r.config.Marshaler, name, nil, true}, Logger: r.config.Watermill,
		})
		if err != nil {
			return err
		}
		d := &dispatcher{group: group, destination: name, endpoints: map[reflect.Type]cqrs.Endpoint{}}
		for goType, h := range byType {
			r.categories[group] = h.Category
			d.endpoints[goType] = r.config.Decorate(h.Type.Name, cqrs.Serve(r.config.Inbox, h, group))
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
