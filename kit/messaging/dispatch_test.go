package messaging

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"testing"
	"time"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

type counted[N any] struct {
	Order string
	At    time.Time
	Lines []string
}

// BenchmarkDispatch measures the cost of finding the handler of a message in a group of n types, including unmarshalling. The cost must stay small
// compared with the few hundred microseconds of a unit of work.
func BenchmarkDispatch(b *testing.B) {
	types := []aggregate.Type{
		aggregate.NewType[counted[int]]("t.0"), aggregate.NewType[counted[int8]]("t.1"), aggregate.NewType[counted[int16]]("t.2"), aggregate.NewType[counted[int32]]("t.3"),
		aggregate.NewType[counted[int64]]("t.4"), aggregate.NewType[counted[uint]]("t.5"), aggregate.NewType[counted[uint8]]("t.6"), aggregate.NewType[counted[uint16]]("t.7"),
		aggregate.NewType[counted[uint32]]("t.8"), aggregate.NewType[counted[uint64]]("t.9"),
	}
	for _, n := range []int{1, 5, 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			logger := NewLogger(slog.New(slog.DiscardHandler))
			router, err := message.NewRouter(message.RouterConfig{}, logger)
			if err != nil {
				b.Fatal(err)
			}
			processor, err := wcqrs.NewEventGroupProcessorWithConfig(router, wcqrs.EventGroupProcessorConfig{
				GenerateSubscribeTopic: func(wcqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) { return "t", nil },
				SubscriberConstructor: func(wcqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
					return nil, nil //nolint:nilnil // it is not run
				},
				Marshaler: NewMarshaler(aggregate.TypesOf(types...), ""), Logger: logger,
			})
			if err != nil {
				b.Fatal(err)
			}
			var handlers []wcqrs.GroupEventHandler
			for _, t := range types[len(types)-n:] {
				handlers = append(handlers, typedHandler{reflect.TypeOf(t.New()).Elem(), func(context.Context, any) error { return nil }})
			}
			if err := processor.AddHandlersGroup("g", handlers...); err != nil {
				b.Fatal(err)
			}
			handle := router.Handlers()["g"]
			msg := message.NewMessage("1", []byte(`{"Order":"order-1","At":"2026-01-02T03:04:05Z","Lines":["a","b"]}`))
			msg.Metadata[cqrs.HeaderType], msg.Metadata[cqrs.HeaderSchema] = "t.9", "1"
			for b.Loop() {
				msg.SetContext(b.Context())
				if _, err := handle(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
