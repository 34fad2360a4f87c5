// Package invariants checks the invariants of the service, which must hold when no saga runs: every order is confirmed or cancelled, every return is closed
// or rejected, and goods, money, shipments and messages add up. The demo checks them, and so does every test that injects a fault.
package invariants

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/millrace/millrace/kit/demo"
	"github.com/millrace/millrace/sagas/orderreturn"
)

// Report is the result of a check.
type Report struct {
	demo.Report
	Orders    int
	Confirmed int
	Cancelled int
	ByReason  map[string]int // number of cancelled orders by reason
	Returns   int            // number of requested returns
}

// books are sums over the orders and the returns.
type books struct {
	sold    map[string]int64 // quantity of each SKU in confirmed orders, less the returned goods in stock
	worth   int64            // total of confirmed orders, less refunds
	shipped int64            // number of shipments
}

// Client reads the data for the invariants through the API of a service at URL.
type Client struct {
	URL  string
	HTTP *http.Client
	// AtLeast is the minimum number of orders. Without it a list of orders that lags behind the events could look consistent.
	AtLeast int

	// SandboxURL is the URL of the service with the sandbox; empty: URL.
	SandboxURL string
}

// Wait checks the invariants until they hold or the time patience is over, and returns the last report. It reads the orders only when no saga runs and the
// outbox is empty, so that waiting causes little load.
func (c Client) Wait(ctx context.Context, patience time.Duration) (Report, error) {
	last, err := demo.Wait(ctx, patience, func(ctx context.Context) (*Report, error) {
		resting := Report{}
		if err := (demo.Client{URL: c.URL, HTTP: c.HTTP}).AtRest(ctx, &resting.Report); err != nil || !resting.Consistent() {
			return &resting, err
		}
		report, err := c.Read(ctx)
		return &report, err
	})
	if err != nil || last.Consistent() {
		return *last, err
	}
	return c.Read(ctx)
}

// Read checks the invariants once. The error means that the data could not be read.
func (c Client) Read(ctx context.Context) (Report, error) {
	report := Report{ByReason: map[string]int{}}
	service := demo.Client{URL: c.URL, HTTP: c.HTTP}
	b, err := c.orders(ctx, service, &report)
	if err == nil {
		err = returns(ctx, service, &report, b)
	}
	if err == nil {
		err = service.AtRest(ctx, &report.Report)
	}
	if err == nil {
		err = stock(ctx, service, &report, b.sold)
	}
	if err == nil {
		err = ledgers(ctx, demo.Client{URL: cmp.Or(c.SandboxURL, c.URL), HTTP: c.HTTP}, &report, b)
	}
	return report, err
}

// orders counts the orders. It adds each SKU of an order that is not confirmed with the quantity 0.
func (c Client) orders(ctx context.Context, service demo.Client, r *Report) (*books, error) {
	type order struct {
		ID     string `json:"order_id"`
		Status string `json:"status"`
		Reason string `json:"reason"`
		Total  int64  `json:"total"`
		Lines  []struct {
			SKU      string `json:"sku"`
			Quantity int64  `json:"quantity"`
		} `json:"lines"`
	}
	orders, err := demo.List[order](ctx, service, "/v1/orders", "orders")
	if err != nil {
		return nil, err
	}
	if r.Orders = len(orders); r.Orders < c.AtLeast {
		r.Fault("only %d orders are listed, of at least %d", r.Orders, c.AtLeast)
	}
	b := &books{sold: map[string]int64{}}
	for _, o := range orders {
		for _, l := range o.Lines {
			b.sold[l.SKU] += 0
			if o.Status == "confirmed" {
				b.sold[l.SKU] += l.Quantity
			}
		}
		switch o.Status {
		case "confirmed":
			r.Confirmed++
			b.worth += o.Total
			b.shipped++
		case "cancelled":
			r.Cancelled++
			r.ByReason[o.Reason]++
			if o.Reason == "" {
				r.Fault("order %s is cancelled without a reason", o.ID)
			}
		default:
			r.Fault("order %s is %s", o.ID, o.Status)
		}
	}
	return b, nil
}

// returns applies the returns. It reads each order with a return by the subject of the return's saga, because lists of orders do not contain returns.
func returns(ctx context.Context, c demo.Client, r *Report, b *books) error {
	type listed struct{ Definition, Subject string }
	sagas, err := demo.List[listed](ctx, c, "/v1/sagas", "sagas")
	if err != nil {
		return err
	}
	for _, s := range sagas {
		if s.Definition != orderreturn.Name {
			continue
		}
		var o struct {
			Return struct {
				Status, Reason string
				Damaged        bool
				Refund         int64
				Lines          []struct {
					SKU      string
					Quantity int64
					Replace  bool
				}
			}
		}
		if err := c.Get(ctx, "/v1/orders/"+s.Subject, &o); err != nil {
			return err
		}
		r.Returns++
		switch back := o.Return; back.Status {
		case "returned":
			b.worth -= back.Refund
			for _, l := range back.Lines {
				if !back.Damaged {
					b.sold[l.SKU] -= l.Quantity
				}
				if l.Replace {
					b.sold[l.SKU] += l.Quantity
					b.shipped++
				}
			}
		case "rejected":
			if back.Reason == "" {
				r.Fault("the return of order %s is rejected without a reason", s.Subject)
			}
		default:
			r.Fault("the return of order %s is %s", s.Subject, back.Status)
		}
	}
	return nil
}

// stock compares the stock of each SKU with the sold quantity.
func stock(ctx context.Context, c demo.Client, r *Report, sold map[string]int64) error {
	for _, sku := range slices.Sorted(maps.Keys(sold)) {
		var s struct {
			Received int64 `json:"received"`
			OnHand   int64 `json:"on_hand"`
			Reserved int64 `json:"reserved"`
		}
		err := c.Get(ctx, "/v1/stock/"+url.PathEscape(sku), &s)
		if err != nil && !demo.NotFound(err) { // a SKU without receipts has no stock to compare
			return err
		}
		if s.Received != s.OnHand+sold[sku] {
			r.Fault("%s: received %d, but %d on hand and %d in confirmed orders, less returns", sku, s.Received, s.OnHand, sold[sku])
		}
		if s.Reserved != 0 {
			r.Fault("%s: %d still reserved", sku, s.Reserved)
		}
	}
	return nil
}

// ledgers compares the sums with the ledgers of the sandbox. It does nothing without a sandbox, because the ledgers of real services cannot be read.
func ledgers(ctx context.Context, c demo.Client, r *Report, b *books) error {
	var payments struct{ Captured, Refunded, Held int64 }
	if err := c.Get(ctx, "/v1/sandbox/payments", &payments); err != nil {
		if demo.NotFound(err) {
			return nil
		}
		return err
	}
	var booked, cancelled int64
	for _, name := range []string{"carrier", "courier"} {
		var carrier struct{ Booked, Cancelled int64 }
		if err := c.Get(ctx, "/v1/sandbox/"+name, &carrier); err != nil {
			return err
		}
		booked, cancelled = booked+carrier.Booked, cancelled+carrier.Cancelled
	}
	if payments.Captured-payments.Refunded != b.worth {
		r.Fault("payments: captured %d less refunded %d, but confirmed orders less returns are worth %d", payments.Captured, payments.Refunded, b.worth)
	}
	if payments.Held != 0 {
		r.Fault("payments: %d still held", payments.Held)
	}
	if booked-cancelled != b.shipped {
		r.Fault("carriers: booked %d less cancelled %d, but %d orders are confirmed and replacements shipped", booked, cancelled, b.shipped)
	}
	return nil
}
