package messages

import (
	"maps"
	"reflect"
	"slices"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/app"
)

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
		group, expect := r.config.Prefix+".commands."+name, r.config.Expect
		if !slices.ContainsFunc(slices.Collect(maps.Values(byType)), func(h app.Handler) bool { return h.Ask != nil }) {
			expect = nil
		}
		processor, err := cqrs.NewCommandProcessorWithConfig(r.Router, cqrs.CommandProcessorConfig{
			GenerateSubscribeTopic: func(cqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
				return CommandTopic(r.config.Prefix, name), nil
			},
			SubscriberConstructor: func(cqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
				return r.subscriber(group, expect)
			},
			Marshaler: subscription{r.config.Marshaler, name, nil, true}, Logger: r.config.Watermill,
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
