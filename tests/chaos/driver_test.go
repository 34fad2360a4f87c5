package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/tests/harness"
)

// driver places orders at a steady rate, at whichever instance answers, and watches how many are decided.
type driver struct {
	stage   *stage
	on      atomic.Bool
	refused atomic.Int64
	n       atomic.Int64

	mu      sync.Mutex
	ids     map[string]bool
	decided int
	last    time.Time // when one was decided, or when there was nothing to decide
	pause   time.Duration
}

func newDriver(s *stage, rate float64) *driver {
	d := &driver{stage: s, ids: map[string]bool{}, last: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { d.place(ctx, rate); done <- struct{}{} }()
	go func() { d.watch(ctx); done <- struct{}{} }()
	s.t.Cleanup(func() { cancel(); <-done; <-done })
	return d
}

// place sends an order every so often. Each bears a key, so that asking another instance again cannot place two.
func (d *driver) place(ctx context.Context, rate float64) {
	every := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer every.Stop()
	var going sync.WaitGroup
	defer going.Wait()
	limit := make(chan struct{}, 200)
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			if !d.on.Load() {
				continue
			}
			select {
			case limit <- struct{}{}:
				going.Go(func() {
					defer func() { <-limit }()
					d.order(int(d.n.Add(1)))
				})
			default: // all that are allowed are on their way
			}
		}
	}
}

func (d *driver) order(n int) {
	methods := []string{"pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_declined", "pm_capture_refused", "pm_ok", "pm_ok"}
	skus := [][]string{{"MUG-01"}, {"TEE-02", "MUG-01"}, {"CAP-03"}, {"MUG-01", "CAP-03"}}
	body := harness.OrderBody(methods[n%len(methods)], skus[n%len(skus)]...)
	for attempt := range 6 {
		i := d.stage.instances[(n+attempt)%len(d.stage.instances)]
		response, err := i.Try(http.MethodPost, "/v1/orders", body, "Idempotency-Key", fmt.Sprint("order-", n))
		if err == nil && response.Status == http.StatusAccepted {
			var order harness.Order
			if json.Unmarshal([]byte(response.Body), &order) == nil {
				d.mu.Lock()
				d.ids[order.ID] = true
				d.mu.Unlock()
			}
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	d.refused.Add(1)
}

// watch reads the list of orders, past the instances.
func (d *driver) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		var decided int
		err := d.stage.db.QueryRowContext(ask, `SELECT count(*) FROM order_view WHERE status IN ('confirmed', 'cancelled')`).Scan(&decided)
		cancel()
		d.mu.Lock()
		if (err == nil && decided > d.decided) || decided == len(d.ids) {
			d.last = time.Now()
		}
		if err == nil {
			d.decided = decided
		}
		d.pause = max(d.pause, time.Since(d.last))
		d.mu.Unlock()
	}
}

func (d *driver) run(on bool) {
	d.on.Store(on)
	if on {
		d.mu.Lock()
		d.last, d.pause = time.Now(), 0
		d.mu.Unlock()
	}
}

func (d *driver) accepted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ids)
}

func (d *driver) inFlight() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ids) - d.decided
}

// longestPause is for how long, since the driver was switched on, no order was decided although there were some to decide.
func (d *driver) longestPause() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pause
}
