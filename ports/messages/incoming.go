package messages

import (
	"context"
	"fmt"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/app"
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
	if err := app.CheckText("key of "+app.MetaOf(ctx).Type, body.(app.Keyed).Key(), app.MaxKey); err != nil {
		return err
	}
	_, err := endpoint(ctx, body)
	return err
}

// listener is the cqrs.GroupEventHandler of a group.
type listener struct {
	category string
	handlers map[reflect.Type]app.Endpoint // of an app.Event
}

// NewEvent implements cqrs.GroupEventHandler.
func (l *listener) NewEvent() any { return &incoming{} }

// Handle implements cqrs.GroupEventHandler.
func (l *listener) Handle(ctx context.Context, event any) error {
	body := event.(*incoming).body
	handle, ok := l.handlers[reflect.TypeOf(body)]
	if !ok {
		return fmt.Errorf("%s became a %T, which nobody here handles: %w", app.MetaOf(ctx).Type, body, app.ErrPoison)
	}
	_, err := handle(ctx, app.Event{
		Body: body, Meta: app.MetaOf(ctx), Category: l.category, Key: cqrs.OriginalMessageFromCtx(ctx).Metadata.Get(app.HeaderKey),
	})
	return err
}
