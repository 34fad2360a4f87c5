// Package invariants checks what must hold when no saga runs: every order is confirmed or cancelled, every return is closed or rejected, and goods,
// money, shipments and messages add up. The demo checks it, and so does every test that breaks something.
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

// Report is what was found.
type Report struct {
	demo.Report
	Orders    int
	Confirmed int
	Cancelled int
	ByReason  map[string]int // of cancellations
	Returns   int            // that are closed or rejected
}

// books are what the orders and returns say.
type books struct {
	sold    map[string]int64 // of each SKU, less what is back in stock
	worth   int64            // of confirmed orders, less refunds
	shipped int64            // shipments
}

// Client reads what the invariants are about through the API of a service.
type Client struct {
	URL  string
	HTTP *http.Client
	// AtLeast is how many orders there must be: the list is a read model, and one that has not caught up is consistent with itself.
	AtLeast int

	// SandboxURL is where the sandbox's ledgers are, if not at the service itself.
	SandboxURL string
}

// Wait checks the invariants until they hold or patience ends, and returns the last report. All orders are read only when nothing is in flight, so
// that waiting costs the service little.
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

// Read checks the invariants now. The error means that something could not be read.
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

// orders counts the orders. What is sold of the SKUs of other orders than confirmed ones is 0.
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

// returns applies the returns. Lists of orders do not show them, so each is read by the subject of its saga.
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

// stock compares each SKU with what was sold of it.
func stock(ctx context.Context, c demo.Client, r *Report, sold map[string]int64) error {
	for _, sku := range slices.Sorted(maps.Keys(sold)) {
		var s struct {
			Received int64 `json:"received"`
			OnHand   int64 `json:"on_hand"`
			Reserved int64 `json:"reserved"`
		}
		err := c.Get(ctx, "/v1/stock/"+url.PathEscape(sku), &s)
		if err != nil && !demo.NotFound(err) { // of what was never received nothing can be sold
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

// ledgers compares with the sandbox. The ledgers of real services cannot be read.
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
