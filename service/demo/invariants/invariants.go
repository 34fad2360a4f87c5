// Package invariants checks what must hold when no saga runs: every order is confirmed or cancelled, and goods, money, shipments and messages add
// up. The demo checks it, and so does every test that breaks something.
package invariants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Report is what was found.
type Report struct {
	Orders    int
	Confirmed int
	Cancelled int
	ByReason  map[string]int // of cancellations
	Faults    []string       // empty: consistent
}

// Consistent tells whether there are no faults.
func (r *Report) Consistent() bool { return len(r.Faults) == 0 }

func (r *Report) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

type line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

type order struct {
	ID     string `json:"order_id"`
	Status string `json:"status"`
	Reason string `json:"reason"`
	Lines  []line `json:"lines"`
	Total  int64  `json:"total"`
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

var errNotFound = errors.New("not found")

func (c Client) get(ctx context.Context, base, path string, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end, or given up
	switch response.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(response.Body).Decode(v)
	case http.StatusNotFound:
		return fmt.Errorf("GET %s: %w", path, errNotFound)
	}
	return fmt.Errorf("GET %s: %s", path, response.Status)
}

// Read checks the invariants now. The error means that something could not be read.
func (c Client) Read(ctx context.Context) (Report, error) {
	report := Report{ByReason: map[string]int{}}
	orders, err := c.orders(ctx)
	if err != nil {
		return report, err
	}
	if len(orders) < c.AtLeast {
		report.fault("only %d orders are listed, of at least %d", len(orders), c.AtLeast)
	}
	sold, skus, total := map[string]int64{}, map[string]bool{}, int64(0)
	for _, o := range orders {
		report.Orders++
		for _, l := range o.Lines {
			skus[l.SKU] = true
		}
		switch o.Status {
		case "confirmed":
			report.Confirmed++
			total += o.Total
			for _, l := range o.Lines {
				sold[l.SKU] += l.Quantity
			}
		case "cancelled":
			report.Cancelled++
			report.ByReason[o.Reason]++
			if o.Reason == "" {
				report.fault("order %s is cancelled without a reason", o.ID)
			}
		default:
			report.fault("order %s is %s", o.ID, o.Status)
		}
	}
	for _, check := range []func(context.Context, *Report) error{
		c.sagas, c.outbox,
		func(ctx context.Context, r *Report) error { return c.stock(ctx, r, skus, sold) },
		func(ctx context.Context, r *Report) error { return c.ledgers(ctx, r, total) },
	} {
		if err := check(ctx, &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// Wait checks the invariants until they hold or patience ends, and returns the last report. Progress receives each one.
func (c Client) Wait(ctx context.Context, patience time.Duration, progress func(Report)) (Report, error) {
	deadline := time.Now().Add(patience)
	for {
		report, err := c.Read(ctx)
		if err == nil {
			progress(report)
		}
		if (err == nil && report.Consistent()) || time.Now().After(deadline) {
			return report, err
		}
		select {
		case <-ctx.Done():
			return report, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (c Client) orders(ctx context.Context) ([]order, error) {
	var all []order
	cursor := ""
	for {
		var page struct {
			Orders []order `json:"orders"`
			Next   string  `json:"next_cursor"`
		}
		if err := c.get(ctx, c.URL, "/v1/orders?limit=100&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Orders...)
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
	}
}

func (c Client) sagas(ctx context.Context, r *Report) error {
	for _, status := range []string{"running", "compensating", "stuck"} {
		var page struct {
			Sagas []struct {
				ID      string `json:"saga_id"`
				Subject string `json:"subject"`
			} `json:"sagas"`
		}
		if err := c.get(ctx, c.URL, "/v1/sagas?limit=100&status="+status, &page); err != nil {
			return err
		}
		for _, s := range page.Sagas {
			r.fault("saga %s of order %s is %s", s.ID, s.Subject, status)
		}
	}
	return nil
}

func (c Client) outbox(ctx context.Context, r *Report) error {
	var backlog struct {
		Pending int `json:"pending"`
		Delayed int `json:"delayed"`
		Parked  int `json:"parked"`
	}
	if err := c.get(ctx, c.URL, "/v1/outbox", &backlog); err != nil {
		return err
	}
	if backlog.Pending+backlog.Delayed+backlog.Parked > 0 {
		r.fault("the outbox holds %d messages that are due, %d delayed and %d parked ones", backlog.Pending, backlog.Delayed, backlog.Parked)
	}
	return nil
}

func (c Client) stock(ctx context.Context, r *Report, skus map[string]bool, sold map[string]int64) error {
	names := make([]string, 0, len(skus))
	for sku := range skus {
		names = append(names, sku)
	}
	slices.Sort(names)
	for _, sku := range names {
		var s struct {
			Received int64 `json:"received"`
			OnHand   int64 `json:"on_hand"`
			Reserved int64 `json:"reserved"`
		}
		err := c.get(ctx, c.URL, "/v1/stock/"+url.PathEscape(sku), &s)
		if err != nil && !errors.Is(err, errNotFound) { // of what was never received nothing can be sold
			return err
		}
		if s.Received != s.OnHand+sold[sku] {
			r.fault("%s: received %d, but %d on hand and %d in confirmed orders", sku, s.Received, s.OnHand, sold[sku])
		}
		if s.Reserved != 0 {
			r.fault("%s: %d still reserved", sku, s.Reserved)
		}
	}
	return nil
}

// ledgers compares with the sandbox; real services outside have no ledger that we can see.
func (c Client) ledgers(ctx context.Context, r *Report, total int64) error {
	base := c.SandboxURL
	if base == "" {
		base = c.URL
	}
	var payments struct{ Captured, Refunded, Held int64 }
	err := c.get(ctx, base, "/v1/sandbox/payments", &payments)
	if errors.Is(err, errNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var booked, cancelled int64
	for _, name := range []string{"carrier", "courier"} {
		var carrier struct{ Booked, Cancelled int64 }
		if err := c.get(ctx, base, "/v1/sandbox/"+name, &carrier); err != nil {
			return err
		}
		booked, cancelled = booked+carrier.Booked, cancelled+carrier.Cancelled
	}
	if payments.Captured-payments.Refunded != total {
		r.fault("payments: captured %d less refunded %d, but confirmed orders are worth %d", payments.Captured, payments.Refunded, total)
	}
	if payments.Held != 0 {
		r.fault("payments: %d still held", payments.Held)
	}
	if booked-cancelled != int64(r.Confirmed) {
		r.fault("carriers: booked %d less cancelled %d, but %d orders confirmed", booked, cancelled, r.Confirmed)
	}
	return nil
}

// Sentence is the report in a line.
func (r *Report) Sentence() string {
	if r.Consistent() {
		return "balanced"
	}
	return "NOT balanced: " + strings.Join(r.Faults, "; ")
}
