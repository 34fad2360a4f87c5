package messages

import (
	"context"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"

	"github.com/millrace/millrace/app"
)

// eventHandler is one type of event in a group of Watermill's EventGroupProcessor.
type eventHandler struct {
	category string
	goType   reflect.Type
	handle   func(ctx context.Context, e app.Event) error
}

// NewEvent implements cqrs.GroupEventHandler.
func (h *eventHandler) NewEvent() any { return reflect.New(h.goType).Interface() }

// Handle implements cqrs.GroupEventHandler.
func (h *eventHandler) Handle(ctx context.Context, event any) error {
	return h.handle(ctx, app.Event{
		Body: reflect.ValueOf(event).Elem().Interface(), Meta: app.MetaOf(ctx), Category: h.category,
		Key: cqrs.OriginalMessageFromCtx(ctx).Metadata.Get(app.HeaderKey),
	})
}
