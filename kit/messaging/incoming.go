package messaging

import (
	"context"
	"fmt"
	"reflect"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// incoming is any message of one subscription. Watermill's CommandProcessor subscribes once a command type, and its EventGroupProcessor
// tries the types of its group one after the other; with one type for all messages of a subscription commands keep their order, and
// events are looked up.
type incoming struct{ body any }

// subscription is a marshaler for incoming.
type subscription struct {
	Marshaler
	name  string
	types map[string]bool // the names of those that it takes; nil: all
	outer bool            // messages may come from outside, so that their text is checked
}

func (s subscription) Name(any) string { return s.name }

func (s subscription) NameFromMessage(msg *message.Message) string {
	if name := s.Marshaler.NameFromMessage(msg); s.types != nil && !s.types[name] {
		return name
	}
	return s.name
}

func (s subscription) Unmarshal(msg *message.Message, v any) (err error) {
	if v.(*incoming).body, err = s.decode(msg); err != nil || !s.outer {
		return err
	}
	return s.checkPayload(msg, v.(*incoming).body)
}

// dispatcher is the wcqrs.CommandHandler of a destination.
type dispatcher struct {
	group       string
	destination string
	endpoints   map[reflect.Type]cqrs.Endpoint
}

// HandlerName implements wcqrs.CommandHandler.
func (d *dispatcher) HandlerName() string { return d.group }

// NewCommand implements wcqrs.CommandHandler.
func (d *dispatcher) NewCommand() any { return &incoming{} }

// Handle implements wcqrs.CommandHandler.
func (d *dispatcher) Handle(ctx context.Context, command any) error {
	body := command.(*incoming).body
	endpoint, ok := d.endpoints[reflect.TypeOf(body)]
	if !ok {
		return fmt.Errorf("%s is no command for %s: %w", cqrs.MetaOf(ctx).Type, d.destination, cqrs.ErrPoison)
	}
	if err := cqrs.CheckText("key of "+cqrs.MetaOf(ctx).Type, body.(cqrs.Keyed).Key(), cqrs.MaxKey); err != nil {
		return err
	}
	_, err := endpoint(ctx, body)
	return err
}

// listener is the wcqrs.GroupEventHandler of a group.
type listener struct {
	category string
	handlers map[reflect.Type]cqrs.Endpoint // of an cqrs.Event
}

// NewEvent implements wcqrs.GroupEventHandler.
func (l *listener) NewEvent() any { return &incoming{} }

// Handle implements wcqrs.GroupEventHandler.
func (l *listener) Handle(ctx context.Context, event any) error {
	body := event.(*incoming).body
	handle, ok := l.handlers[reflect.TypeOf(body)]
	if !ok {
		return fmt.Errorf("%s became a %T, which nobody here handles: %w", cqrs.MetaOf(ctx).Type, body, cqrs.ErrPoison)
	}
	_, err := handle(ctx, cqrs.Event{
		Body: body, Meta: cqrs.MetaOf(ctx), Category: l.category, Key: wcqrs.OriginalMessageFromCtx(ctx).Metadata.Get(cqrs.HeaderKey),
	})
	return err
}
