package service

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/adapters/gateway"
	"github.com/millrace/millrace/adapters/views"
	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/consumer"
	"github.com/millrace/millrace/app/consumer/warehousepb"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/audit"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/ports/ui"
	"github.com/millrace/millrace/sagas/fulfilment"
)

// kinds are the aggregates: the category of their streams and topics, and their events.
func kinds() map[string]aggregate.Types {
	return map[string]aggregate.Types{
		order.Category: order.Types, inventory.Category: inventory.Types, payment.Category: payment.Types,
		shipment.Category: shipment.Types, saga.Category: saga.Facts,
	}
}

// deps are what commands need: the aggregates' stores, and the services outside.
func (s *Service) deps(store *eventstore.Store) command.Deps {
	return command.Deps{
		Orders:    eventstore.NewRepository(store, order.Category, order.Rebuild, eventstore.Options{}),
		Stock:     eventstore.NewRepository(store, inventory.Category, inventory.Rebuild, eventstore.Options{SnapshotEvery: 100, Contended: true}),
		Payments:  eventstore.NewRepository(store, payment.Category, payment.Rebuild, eventstore.Options{}),
		Shipments: eventstore.NewRepository(store, shipment.Category, shipment.Rebuild, eventstore.Options{}),
		Provider:  gateway.NewPayments(s.outside(s.config.PaymentsURL, "/payments")),
		Carrier:   gateway.NewCarrier("carrier", s.outside(s.config.CarrierURL, "/carrier")),
		Courier:   gateway.NewCarrier("courier", s.outside(s.config.CourierURL, "/courier")),
	}
}

// snapshots say how a category's snapshots are made, for the audit: one entry for each repository with SnapshotEvery.
func snapshots() map[string]audit.Snapshot {
	return map[string]audit.Snapshot{inventory.Category: audit.SnapshotOf(eventstore.FoldSnapshot(inventory.Rebuild, eventstore.Options{}))}
}

// sight is where queries look.
func (s *Service) sight(store *eventstore.Store) query.Deps {
	return query.Deps{History: store, Orders: views.NewOrders(s.db), Stock: views.NewStock(s.db)}
}

// breakers names those of the destinations whose commands ask services outside.
func breakers() map[string]string {
	return map[string]string{payment.Category: "payments", shipment.Category: "carrier", command.Couriers: "courier"}
}

// codecs are of messages that are not, or not only, in JSON: what the warehouse says may come as Protocol Buffers too.
func codecs() []messaging.Codec {
	return []messaging.Codec{
		messaging.Protobuf("delivery.arrived",
			func(e consumer.DeliveryArrived) *warehousepb.DeliveryArrived {
				return &warehousepb.DeliveryArrived{Sku: e.SKU, Quantity: e.Quantity}
			},
			func(p *warehousepb.DeliveryArrived) consumer.DeliveryArrived {
				return consumer.DeliveryArrived{SKU: p.GetSku(), Quantity: p.GetQuantity()}
			}),
	}
}

// subject is what a saga is about, and the address of its page.
func subject(state saga.State) (noun, address string) {
	if state.Definition == fulfilment.Name {
		return "order", "/ui/orders/" + state.Subject
	}
	return "", ""
}

// counts are what the first page tells of what the service is about.
func (s *Service) counts(ctx context.Context) ([]ui.Group, error) {
	orders, err := views.NewOrders(s.db).Count(ctx, ui.Most+1)
	group := ui.Group{Title: "Orders"}
	for _, status := range []order.Status{order.Pending, order.IsConfirmed, order.IsCancelled} {
		group.Of = append(group.Of, ui.Tally{Name: string(status), N: orders[status], Address: "/ui/orders?status=" + string(status)})
	}
	return []ui.Group{group}, err
}

// tries are what the banner suggests.
func (s *Service) tries() []string {
	return []string{
		"go run . demo",
		fmt.Sprintf(`curl -s -H 'Prefer: wait=5' %s/v1/orders -d '{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}' -H 'Content-Type: application/json'`, s.URL),
	}
}

// seed fills a database that was made just now, so that there is something to begin with.
func (s *Service) seed() error {
	if s.postgres == nil || !s.postgres.Fresh {
		return nil
	}
	return s.core.uow.Within(context.Background(), func(ctx context.Context) error {
		for _, sku := range []string{"MUG-01", "TEE-02", "CAP-03", "HEAVY-99"} {
			if err := s.core.commands.Execute(ctx, cqrs.Command{Body: command.ReceiveStock{SKU: sku, Quantity: 1_000_000}}); err != nil {
				return err
			}
		}
		return nil
	})
}
