// Package demo demonstrates the service: it places orders of every outcome through the API and checks the invariants afterwards.
package demo

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/millrace/millrace/kit/demo"
	"github.com/millrace/millrace/service/demo/invariants"
)

// Orders describes the command "demo".
var Orders = demo.Demo{
	Noun: "orders", Short: "Place orders of every outcome and check that nothing was lost or done twice",
	Statuses: []string{"confirmed", "cancelled"},
	Slow:     "wait for the payment provider's time-out",
	Outage:   demo.Outage{Service: "payments", Called: "the payment provider"},
	Prepare:  stockUp,
	Task:     place,
	Check:    check,
	Instead:  map[string]demo.Demo{"returns": returns},
	JSON: func(r demo.Result) any {
		out := result{
			Orders: r.Total, Confirmed: r.ByStatus["confirmed"], Cancelled: r.ByStatus["cancelled"], ByReason: r.ByReason, Seconds: demo.Round(r.Took.Seconds()),
			OrdersPerSecond: demo.Round(r.PerSecond), Books: r.Report.Sentence(), Consistent: r.Report.Consistent(), Chaos: r.Happened,
		}
		out.LatencyMS.P50, out.LatencyMS.P99 = demo.Round(r.P50.Seconds()*1000), demo.Round(r.P99.Seconds()*1000)
		return out
	},
}

// result is the JSON that demo --json prints.
type result struct {
	Orders          int            `json:"orders"`
	Confirmed       int            `json:"confirmed"`
	Cancelled       int            `json:"cancelled"`
	ByReason        map[string]int `json:"by_reason"`
	Seconds         float64        `json:"seconds"`
	OrdersPerSecond float64        `json:"orders_per_second"`
	LatencyMS       struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"latency_ms"`
	Books      string           `json:"books"`
	Consistent bool             `json:"consistent"`
	Chaos      []demo.Happening `json:"chaos,omitempty"`
}

// check checks the invariants of the service.
func check(ctx context.Context, c demo.Client, total int) (demo.Report, error) {
	report, err := invariants.Client{URL: c.URL, HTTP: c.HTTP, AtLeast: total}.Read(ctx)
	return report.Report, err
}

// stockUp receives stock, unless the service has enough of it, as a new embedded database does.
func stockUp(ctx context.Context, c demo.Client, total int) error {
	for _, sku := range []string{"MUG-01", "TEE-02", "CAP-03", "HEAVY-99"} {
		wanted := int64(total)*10 + 1000
		enough := func() (bool, error) {
			var stock struct{ Available int64 }
			err := c.Get(ctx, "/v1/stock/"+sku, &stock)
			return err == nil && stock.Available >= wanted, nil
		}
		if there, _ := enough(); there {
			continue
		}
		if err := c.Do(ctx, http.MethodPost, "/v1/stock/"+sku+"/receipts", nil, map[string]int64{"quantity": wanted}, nil); err != nil {
			return err
		}
		if err := demo.Until(ctx, 50*time.Millisecond, 30*time.Second, enough); err != nil {
			return fmt.Errorf("the stock of %s does not show the receipt: are the worker and the relay running? %w", sku, err)
		}
	}
	return nil
}

type line struct {
	SKU       string `json:"sku"`
	Quantity  int    `json:"quantity"`
	UnitPrice int    `json:"unit_price"`
}

// slowMethod is a payment method that the sandbox's payment provider does not answer in time, so that the order is cancelled after 20 s.
const slowMethod = "pm_slow"

// kind returns the order with number n of total orders. A hundred orders contain every outcome except the slow one, which only more orders contain.
func kind(n, total int) (lines []line, method string, cancel bool) {
	lines = []line{{"MUG-01", 1 + n%3, 1250}, {"TEE-02", 1, 1999}}
	if n%2 == 1 {
		lines = []line{{"CAP-03", 1 + n%2, 1500}}
	}
	switch {
	case n%100 == 0 && total > 100:
		return lines, slowMethod, false
	case n%20 == 3 || n%20 == 13:
		return lines, "pm_declined", false
	case n%20 == 5 || n%20 == 15:
		return append(lines, line{"VOID-00", 1, 100}), "pm_ok", false
	case n%20 == 7 || n%20 == 17:
		return []line{{"HEAVY-99", 1, 9900}}, "pm_ok", false
	case n%20 == 9:
		return lines, "pm_capture_refused", false
	case n%20 == 11:
		return lines, "pm_ok", true
	}
	return lines, "pm_ok", false
}

// place places one order and waits until it is decided.
func place(ctx context.Context, c demo.Client, n, total int) (demo.Outcome, error) {
	lines, method, cancel := kind(n, total)
	var o struct {
		ID     string `json:"order_id"`
		Status string `json:"status"`
		Reason string `json:"reason"`
	}
	headers := map[string]string{"Prefer": "wait=30"}
	if cancel {
		headers = nil
	}
	body := map[string]any{"lines": lines, "currency": "EUR", "payment_method": method}
	if err := c.Do(ctx, http.MethodPost, "/v1/orders", headers, body, &o); err != nil {
		return demo.Outcome{}, err
	}
	if cancel {
		// If it is too late to cancel, the order is confirmed, which is a valid outcome.
		_ = c.Do(ctx, http.MethodPost, "/v1/orders/"+o.ID+"/cancel", nil, nil, nil)
	}
	for o.Status == "pending" {
		select {
		case <-ctx.Done():
			return demo.Outcome{}, fmt.Errorf("order %s is still pending: %w", o.ID, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
		if err := c.Get(ctx, "/v1/orders/"+o.ID, &o); err != nil {
			return demo.Outcome{}, err
		}
	}
	return demo.Outcome{Status: o.Status, Reason: o.Reason, Slow: method == slowMethod}, nil
}
