// Package service is the definition of the service: one value that registers all its parts.
package service

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/adapters/breakers"
	"github.com/millrace/millrace/adapters/broker"
	"github.com/millrace/millrace/adapters/gateway"
	"github.com/millrace/millrace/adapters/outbox"
	"github.com/millrace/millrace/adapters/store"
	"github.com/millrace/millrace/adapters/views"
	"github.com/millrace/millrace/adapters/warehouse"
	"github.com/millrace/millrace/adapters/warehousepb"
	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/consumer"
	"github.com/millrace/millrace/app/external"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/postgres/eventstore"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/ports"
	"github.com/millrace/millrace/ports/pages"
	"github.com/millrace/millrace/sagas"
	"github.com/millrace/millrace/sagas/fulfilment"
	"github.com/millrace/millrace/service/demo"
)

// The aggregates. Stock is written by many orders at once and has a long history, so it has snapshots and is locked while it is written.
var (
	orders    = runner.AggregateOf(order.Category, order.Types, order.Rebuild, eventstore.Options{})
	stock     = runner.AggregateOf(inventory.Category, inventory.Types, inventory.Rebuild, eventstore.Options{SnapshotEvery: 100, Contended: true})
	payments  = runner.AggregateOf(payment.Category, payment.Types, payment.Rebuild, eventstore.Options{})
	shipments = runner.AggregateOf(shipment.Category, shipment.Types, shipment.Rebuild, eventstore.Options{})
)

// cancelled is the reason of an order that its customer has cancelled.
const cancelled = "cancelled by the customer"

// New returns the definition of the service.
func New() runner.Service {
	return runner.Service{
		Name: "millrace", Title: "Millrace", Summary: "Orders that are fulfilled by a saga",

		Aggregates: []runner.Aggregate{
			orders, stock, payments, shipments,
		},
		Commands: func(k *runner.Kit) []cqrs.Handler {
			return command.All(command.Deps{
				Orders: orders.Store(k), Stock: stock.Store(k), Payments: payments.Store(k), Shipments: shipments.Store(k),
				Provider: gateway.NewPayments(k.GatewayURL("payments")),
				Carrier:  gateway.NewCarrier("carrier", k.GatewayURL("carrier")),
				Courier:  gateway.NewCarrier("courier", k.GatewayURL("courier")),
			})
		},
		Queries: func(k *runner.Kit) []cqrs.QueryHandler {
			return query.All(query.Deps{
				History: k,
				Orders:  views.NewOrders(k.DB()), Stock: views.NewStock(k.DB()),
			})
		},
		Projections: views.All(),
		Sagas:       sagas.All(),
		Consumers: func(k *runner.Kit) []cqrs.EventConsumer {
			return consumer.All(consumer.Deps{Commands: k.Commands()})
		},
		External: external.All(),
		Codecs: []messaging.Codec{
			warehousepb.DeliveryArrivedCodec,
		},
		Gateways: []runner.Gateway{
			gateway.PaymentsService, gateway.CarrierService, gateway.CourierService,
		},
		Breaker:    breakers.Settings,
		Database:   store.Open,
		EventStore: store.Events,
		Outbox:     outbox.Insert,
		Broker:     broker.New,
		Migrations: migrations.Files,

		Routes: func(k *runner.Kit) *httpapi.Service {
			return ports.Routes(ports.Deps{
				Cancel: k.Compensation(fulfilment.Name, order.Category, cancelled), ParcelArrived: warehouse.ParcelArrived(k),
			})
		},
		Pages: func(k *runner.Kit) opsui.Extension {
			return pages.Pages{
				Commands: k.Commands(), Queries: k.Queries(),
				Sagas: sagas.All(), Cancel: k.Compensation(fulfilment.Name, order.Category, cancelled), Counts: views.NewOrders(k.DB()).Count, Sandbox: k.Sandbox(),
				ParcelArrived: warehouse.ParcelArrived(k),
			}.Extension()
		},

		Seed:  seed,
		Hints: hints,
		CLI:   func(p *runner.Program) []*cobra.Command { return []*cobra.Command{demo.Orders.Command(p)} },
	}
}

// seed fills a new embedded database, so that there is something to order.
func seed(ctx context.Context, k *runner.Kit) error {
	return k.UnitOfWork().Within(ctx, func(ctx context.Context) error {
		for _, sku := range []string{"MUG-01", "TEE-02", "CAP-03", "HEAVY-99"} {
			if err := k.Commands().Execute(ctx, cqrs.Command{Body: command.ReceiveStock{SKU: sku, Quantity: 1_000_000}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// hints are what the banner suggests.
func hints(k *runner.Kit) []string {
	return []string{
		"go run . demo",
		fmt.Sprintf(`curl -s -H 'Prefer: wait=5' %s/v1/orders -d '{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}' -H 'Content-Type: application/json'`, k.URL()),
	}
}
