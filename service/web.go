package service

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/millrace/millrace/adapters/sandbox"
	"github.com/millrace/millrace/adapters/views"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/ports/api"
	"github.com/millrace/millrace/ports/ui"
	"github.com/millrace/millrace/runner"
	"github.com/millrace/millrace/sagas/fulfilment"
)

func (o *outside) web() runner.Web {
	return runner.Web{
		API: func(k *runner.Kit, s *api.Server) []api.Mount {
			s.Cancel = func(ctx context.Context, orderID string) error { return cancelOrder(ctx, k, orderID) }
			s.SagaOf = sagaOf
			if o.sandbox == nil {
				return nil
			}
			s.Sandbox = o.sandbox.Control()
			return []api.Mount{{Pattern: "/sandbox/*", Handler: http.StripPrefix("/sandbox", o.sandbox.Handler())}}
		},
		Pages: func(k *runner.Kit, s *ui.Server) {
			s.Cancel = func(ctx context.Context, orderID string) error { return cancelOrder(ctx, k, orderID) }
			s.SagaOf = sagaOf
			if o.sandbox != nil {
				s.Sandbox = knobs(o.sandbox)
			}
		},
		Subject: subject, Counts: counts,
	}
}

func sagaOf(orderID string) string { return saga.ID(fulfilment.Name, orderID) }

// cancelOrder asks the order's saga, and with it decides in one transaction whether it is too late.
func cancelOrder(ctx context.Context, k *runner.Kit, orderID string) error {
	return k.UnitOfWork().Within(ctx, func(ctx context.Context) error {
		history, err := k.History(ctx, order.Category, orderID)
		if err != nil {
			return err
		}
		return k.CancelSaga(ctx, fulfilment.Name, history[0], "cancelled by the customer")
	})
}

// subject is what a saga is about, and the address of its page.
func subject(state saga.State) (noun, address string) {
	if state.Definition == fulfilment.Name {
		return "order", "/ui/orders/" + state.Subject
	}
	return "", ""
}

// counts are what the first page shows of orders.
func counts(ctx context.Context, k *runner.Kit) ([]ui.Group, error) {
	orders, err := views.NewOrders(k.DB()).Count(ctx, ui.Most+1)
	group := ui.Group{Title: "Orders"}
	for _, status := range []order.Status{order.Pending, order.IsConfirmed, order.IsCancelled} {
		group.Of = append(group.Of, ui.Tally{Name: string(status), N: orders[status], Address: "/ui/orders?status=" + string(status)})
	}
	return []ui.Group{group}, err
}

// hints are what the banner suggests.
func hints(k *runner.Kit) []string {
	return []string{
		"go run . demo",
		fmt.Sprintf(`curl -s -H 'Prefer: wait=5' %s/v1/orders -d '{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}' -H 'Content-Type: application/json'`, k.URL()),
	}
}

func knobs(box *sandbox.Sandbox) []ui.SandboxService {
	service := func(name string, get func() sandbox.Knobs, turn func(sandbox.Knobs), ledger func() []ui.Entry) ui.SandboxService {
		return ui.SandboxService{
			Name: name, Ledger: ledger,
			Knobs: func() ui.Knobs {
				k := get()
				return ui.Knobs{Down: k.Down, FailureRate: k.FailureRate, RefusalRate: k.RefusalRate, Latency: time.Duration(k.Latency)}
			},
			Turn: func(k ui.Knobs) {
				turn(sandbox.Knobs{Down: k.Down, FailureRate: k.FailureRate, RefusalRate: k.RefusalRate, Latency: sandbox.Duration(k.Latency), Twice: get().Twice})
			},
		}
	}
	return []ui.SandboxService{
		service("payments", box.Payments.Knobs, box.Payments.Turn, func() []ui.Entry { return entries(box.Payments.Ledger()) }),
		service("carrier", box.Carrier.Knobs, box.Carrier.Turn, func() []ui.Entry { return entries(box.Carrier.Ledger()) }),
		service("courier", box.Courier.Knobs, box.Courier.Turn, func() []ui.Entry { return entries(box.Courier.Ledger()) }),
	}
}

// entries are the fields of a ledger, by their names in JSON.
func entries(ledger any) (out []ui.Entry) {
	v := reflect.ValueOf(ledger)
	for i := range v.NumField() {
		if n, ok := reflect.TypeAssert[int64](v.Field(i)); ok {
			out = append(out, ui.Entry{Name: strings.Split(v.Type().Field(i).Tag.Get("json"), ",")[0], Value: n})
		}
	}
	return out
}
