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
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/ports/pages"
	"github.com/millrace/millrace/sagas/fulfilment"
)

// control answers requests for the sandbox. Nil: it does not run.
func (o *outside) control() http.Handler {
	if o.sandbox == nil {
		return nil
	}
	return o.sandbox.Control()
}

// mounts lets other instances share the sandbox of this one.
func (o *outside) mounts(*runner.Kit) []httpapi.Mount {
	if o.sandbox == nil {
		return nil
	}
	return []httpapi.Mount{{Pattern: "/sandbox/*", Handler: http.StripPrefix("/sandbox", o.sandbox.Handler())}}
}

// countOrders counts the orders of each status, up to a limit.
func countOrders(k *runner.Kit) func(ctx context.Context, limit int) (map[order.Status]int, error) {
	return func(ctx context.Context, limit int) (map[order.Status]int, error) {
		return views.NewOrders(k.DB()).Count(ctx, limit)
	}
}

// cancelOrder cancels the order's saga. Whether it is too late is decided in the saga's transaction.
func cancelOrder(k *runner.Kit) func(ctx context.Context, orderID string) error {
	return func(ctx context.Context, orderID string) error {
		return k.UnitOfWork().Within(ctx, func(ctx context.Context) error {
			history, err := k.History(ctx, order.Category, orderID)
			if err != nil {
				return err
			}
			return k.CancelSaga(ctx, fulfilment.Name, history[0], "cancelled by the customer")
		})
	}
}

// hints are the commands that the banner suggests.
func hints(k *runner.Kit) []string {
	return []string{
		"go run . demo",
		fmt.Sprintf(`curl -s -H 'Prefer: wait=5' %s/v1/orders -d '{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}' -H 'Content-Type: application/json'`, k.URL()),
	}
}

// sandboxServices are the simulated services as the page of the sandbox shows them. None, if the sandbox does not run.
func sandboxServices(box *sandbox.Sandbox) []pages.SandboxService {
	if box == nil {
		return nil
	}
	service := func(name string, get func() sandbox.Knobs, set func(sandbox.Knobs), ledger func() []pages.LedgerEntry) pages.SandboxService {
		return pages.SandboxService{
			Name: name, Ledger: ledger,
			Faults: func() pages.Faults {
				k := get()
				return pages.Faults{Down: k.Down, FailureRate: k.FailureRate, RefusalRate: k.RefusalRate, Latency: time.Duration(k.Latency)}
			},
			Set: func(f pages.Faults) {
				set(sandbox.Knobs{Down: f.Down, FailureRate: f.FailureRate, RefusalRate: f.RefusalRate, Latency: sandbox.Duration(f.Latency), Twice: get().Twice})
			},
		}
	}
	return []pages.SandboxService{
		service("payments", box.Payments.Knobs, box.Payments.Turn, func() []pages.LedgerEntry { return entries(box.Payments.Ledger()) }),
		service("carrier", box.Carrier.Knobs, box.Carrier.Turn, func() []pages.LedgerEntry { return entries(box.Carrier.Ledger()) }),
		service("courier", box.Courier.Knobs, box.Courier.Turn, func() []pages.LedgerEntry { return entries(box.Courier.Ledger()) }),
	}
}

// entries are the fields of a ledger, by their names in JSON.
func entries(ledger any) (out []pages.LedgerEntry) {
	v := reflect.ValueOf(ledger)
	for i := range v.NumField() {
		if n, ok := reflect.TypeAssert[int64](v.Field(i)); ok {
			out = append(out, pages.LedgerEntry{Name: strings.Split(v.Type().Field(i).Tag.Get("json"), ",")[0], Value: n})
		}
	}
	return out
}
