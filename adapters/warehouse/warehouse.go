// Package warehouse simulates the warehouse while the sandbox runs: it publishes the events of parcels on the warehouse's topic.
package warehouse

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/millrace/millrace/app/external"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/runner"
)

// ParcelArrived returns a function that simulates the arrival of the parcel with a number. The function is nil if the sandbox does not run.
func ParcelArrived(k *runner.Kit) func(ctx context.Context, number string) error {
	if !k.Sandbox() {
		return nil
	}
	return func(ctx context.Context, number string) error {
		topics, types := k.Config().ExternalPrefixes[external.Warehouse.Service], messaging.NewMarshaler(external.Warehouse.Events, "/warehouse")
		bus, err := messaging.NewEventBus(topics, k.Publisher(), types, time.Now, watermill.NopLogger{})
		if err != nil {
			return err
		}
		return k.UnitOfWork().Within(ctx, func(ctx context.Context) error {
			return bus.Publish(ctx, cqrs.Event{Body: external.ParcelArrived{ParcelNumber: number}, Category: external.Warehouse.Category, Key: number})
		})
	}
}
