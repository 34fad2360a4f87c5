// Package demo places orders of every outcome through the API of a service and checks the invariants afterwards.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/service/demo/invariants"
)

// Demo's bounds.
const (
	demoInFlight = 48
	demoPatience = 3 * time.Minute
)

// demoResult is what demo --json prints.
type demoResult struct {
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
	Books      string      `json:"books"`
	Consistent bool        `json:"consistent"`
	Chaos      []happening `json:"chaos,omitempty"`
}

// Command is the command demo.
func Command(p *runner.Program) *cobra.Command {
	orders, url, asJSON, chaos := 100, "", false, false
	c := &cobra.Command{Use: "demo", Short: "Place orders of every outcome and check that nothing was lost or done twice", Args: cli.Args(0), RunE: func(c *cobra.Command, _ []string) error {
		if orders < 1 || orders > 1_000_000 {
			return fmt.Errorf("%w: --orders must be from 1 to 1000000", cli.ErrUsage)
		}
		return run(c.Context(), p, &demo{program: p, url: url, total: orders, withChaos: chaos}, asJSON)
	}}
	c.Flags().IntVar(&orders, "orders", orders, "how many orders to place")
	c.Flags().StringVar(&url, "url", url, "a running service; without it the one that the settings name, or one that is started for the demo")
	c.Flags().BoolVar(&chaos, "chaos", chaos, "take the payment provider of the sandbox down in the middle")
	c.Flags().BoolVar(&asJSON, "json", asJSON, "print one JSON object")
	return c
}

func run(ctx context.Context, p *runner.Program, d *demo, asJSON bool) (err error) {
	checkTopics := func(context.Context) ([]string, error) { return nil, nil }
	if d.url == "" {
		if d.url = p.URL; p.Alive(ctx) != nil {
			p.Say("no service answers at " + p.URL + "; starting one")
			instance, stop, startErr := p.StartQuiet(ctx)
			if startErr != nil {
				return startErr
			}
			defer func() { err = errors.Join(err, stop()) }()
			d.url, checkTopics = instance.OpsURL, instance.CheckTopics
		}
	}
	d.http = p.Client(40*time.Second, &http.Transport{MaxIdleConnsPerHost: demoInFlight})
	result, faults, err := d.run(ctx, checkTopics)
	if err != nil {
		return err
	}
	if err := d.show(result, faults, asJSON); err != nil {
		return err
	}
	if len(faults) > 0 {
		return errors.New("the invariants do not hold")
	}
	return nil
}

// demo places orders of every outcome.
type demo struct {
	program *runner.Program
	url     string
	http    *http.Client
	total   int
	began   time.Time

	withChaos bool
	happened  []happening // guarded by mu

	placed, decided atomic.Int64
	mu              sync.Mutex
	byStatus        map[string]int
	byReason        map[string]int
	latencies       []time.Duration // of all but the slow ones
	slow            int             // orders that wait for the time-out of the payment provider
	prompt          time.Duration   // from the start until the last of the other orders was decided
}

func (d *demo) run(ctx context.Context, checkTopics func(context.Context) ([]string, error)) (r demoResult, faults []string, err error) {
	d.byStatus, d.byReason = map[string]int{}, map[string]int{}
	if err := d.stockUp(ctx); err != nil {
		return r, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.began = time.Now()
	progress := d.program.Live(ctx, d.table)
	numbers, faulty := make(chan int), make(chan error, demoInFlight+1)
	var workers sync.WaitGroup
	if d.withChaos {
		workers.Go(func() {
			if err := d.chaos(ctx); err != nil {
				faulty <- err
				cancel()
			}
		})
	}
	for range min(demoInFlight, d.total) {
		workers.Go(func() {
			for n := range numbers {
				if err := d.order(ctx, n); err != nil {
					faulty <- err
					cancel()
					return
				}
			}
		})
	}
feeding:
	for n := range d.total {
		select {
		case numbers <- n:
		case <-ctx.Done():
			break feeding
		}
	}
	close(numbers)
	workers.Wait()
	progress()
	select {
	case err := <-faulty:
		return r, nil, err
	default:
		if err := ctx.Err(); err != nil {
			return r, nil, err
		}
	}
	took := time.Since(d.began)
	report, err := invariants.Client{URL: d.url, HTTP: d.http, AtLeast: d.total}.Wait(ctx, 30*time.Second, func(invariants.Report) {})
	if err != nil {
		return r, nil, fmt.Errorf("read the books: %w", err)
	}
	logFaults, err := checkTopics(ctx)
	if err != nil {
		return r, nil, fmt.Errorf("read the log: %w", err)
	}
	report.Faults = append(report.Faults, logFaults...)
	return d.result(took, report), report.Faults, nil
}

func (d *demo) result(took time.Duration, report invariants.Report) demoResult {
	slices.Sort(d.latencies)
	r := demoResult{
		Orders: d.total, Confirmed: d.byStatus["confirmed"], Cancelled: d.byStatus["cancelled"], ByReason: d.byReason, Chaos: d.happened,
		Seconds: round(took.Seconds()), OrdersPerSecond: round(float64(d.total-d.slow) / d.prompt.Seconds()), Books: report.Sentence(), Consistent: report.Consistent(),
	}
	r.LatencyMS.P50 = round(d.quantile(0.5).Seconds() * 1000)
	r.LatencyMS.P99 = round(d.quantile(0.99).Seconds() * 1000)
	return r
}

func round(v float64) float64 { return float64(int64(v*100+0.5)) / 100 }

func (d *demo) quantile(q float64) time.Duration {
	return d.latencies[int(q*float64(len(d.latencies)-1))]
}

// stockUp sees to it that there is enough to order, on a database that the embedded default has not stocked.
func (d *demo) stockUp(ctx context.Context) error {
	for _, sku := range []string{"MUG-01", "TEE-02", "CAP-03", "HEAVY-99"} {
		wanted := int64(d.total)*10 + 1000
		available := func() int64 {
			var stock struct{ Available int64 }
			if d.do(ctx, http.MethodGet, "/v1/stock/"+sku, nil, nil, &stock) != nil {
				return 0
			}
			return stock.Available
		}
		if available() >= wanted {
			continue
		}
		if err := d.do(ctx, http.MethodPost, "/v1/stock/"+sku+"/receipts", nil, map[string]int64{"quantity": wanted}, &struct{}{}); err != nil {
			return err
		}
		for deadline := time.Now().Add(30 * time.Second); available() < wanted; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) || ctx.Err() != nil {
				return fmt.Errorf("the stock of %s does not show the receipt: are the worker and the relay running?", sku)
			}
		}
	}
	return nil
}

type demoLine struct {
	SKU       string `json:"sku"`
	Quantity  int    `json:"quantity"`
	UnitPrice int    `json:"unit_price"`
}

// slowMethod is a payment method for which the sandbox's provider does not answer in time, so that the order is cancelled after 20 s.
const slowMethod = "pm_slow"

// kind is what is to become of the nth order of so many. Every outcome is among a hundred orders but the slow one, which a longer demo has.
func kind(n, total int) (lines []demoLine, method string, cancel bool) {
	lines = []demoLine{{"MUG-01", 1 + n%3, 1250}, {"TEE-02", 1, 1999}}
	if n%2 == 1 {
		lines = []demoLine{{"CAP-03", 1 + n%2, 1500}}
	}
	switch {
	case n%100 == 0 && total > 100:
		return lines, slowMethod, false
	case n%20 == 3 || n%20 == 13:
		return lines, "pm_declined", false
	case n%20 == 5 || n%20 == 15:
		return append(lines, demoLine{"VOID-00", 1, 100}), "pm_ok", false
	case n%20 == 7 || n%20 == 17:
		return []demoLine{{"HEAVY-99", 1, 9900}}, "pm_ok", false
	case n%20 == 9:
		return lines, "pm_capture_refused", false
	case n%20 == 11:
		return lines, "pm_ok", true
	}
	return lines, "pm_ok", false
}

// order places one order and waits until it is decided.
func (d *demo) order(ctx context.Context, n int) error {
	lines, method, cancel := kind(n, d.total)
	var order struct {
		ID     string `json:"order_id"`
		Status string `json:"status"`
		Reason string `json:"reason"`
	}
	headers := map[string]string{"Prefer": "wait=30"}
	if cancel {
		headers = nil
	}
	began := time.Now()
	d.placed.Add(1)
	body := map[string]any{"lines": lines, "currency": "EUR", "payment_method": method}
	if err := d.do(ctx, http.MethodPost, "/v1/orders", headers, body, &order); err != nil {
		return err
	}
	if cancel {
		// It may be too late already, and that is an outcome too.
		_ = d.do(ctx, http.MethodPost, "/v1/orders/"+order.ID+"/cancel", nil, nil, &struct{}{})
	}
	for deadline := began.Add(demoPatience); order.Status == "pending"; {
		if time.Now().After(deadline) {
			return fmt.Errorf("order %s is still pending after %s", order.ID, demoPatience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if err := d.do(ctx, http.MethodGet, "/v1/orders/"+order.ID, nil, nil, &order); err != nil {
			return err
		}
	}
	d.decided.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if method == slowMethod {
		d.slow++
	} else {
		d.latencies = append(d.latencies, time.Since(began))
		d.prompt = max(d.prompt, time.Since(d.began))
	}
	d.byStatus[order.Status]++
	if order.Reason != "" {
		d.byReason[order.Reason]++
	}
	return nil
}

func (d *demo) do(ctx context.Context, method, path string, headers map[string]string, body, answer any) error {
	var payload bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&payload).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, d.url+path, &payload)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	return cli.Call(d.http, request, answer)
}

func (d *demo) show(r demoResult, faults []string, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(d.program.Stdout).Encode(r)
	}
	table := tabwriter.NewWriter(d.program.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "orders\t%d\nconfirmed\t%d\ncancelled\t%d\n", r.Orders, r.Confirmed, r.Cancelled)
	for _, reason := range slices.Sorted(maps.Keys(r.ByReason)) {
		_, _ = fmt.Fprintf(table, "  %s\t%d\n", reason, r.ByReason[reason])
	}
	besides := ""
	if d.slow > 0 {
		besides = fmt.Sprintf(", without %d that wait for the payment provider's time-out", d.slow)
	}
	_, _ = fmt.Fprintf(table, "time\t%.1f s\nrate\t%.0f orders/s%s\nuntil decided\tp50 %.0f ms, p99 %.0f ms\n", r.Seconds, r.OrdersPerSecond, besides, r.LatencyMS.P50, r.LatencyMS.P99)
	for _, h := range r.Chaos {
		_, _ = fmt.Fprintf(table, "after %.1f s\t%s\n", h.At, h.What)
	}
	if len(faults) == 0 {
		_, _ = fmt.Fprintln(table, "invariants\tconsistent: nothing was lost, and nothing was done twice")
	}
	for _, f := range faults {
		_, _ = fmt.Fprintf(table, "invariants\tNOT consistent: %s\n", f)
	}
	return table.Flush()
}
