package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// downAtMost bounds for how long the demo keeps the payment provider down.
const downAtMost = 40 * time.Second

// chaos takes the payment provider down when a quarter of the orders is decided, until its breaker is open and a saga has given up
// waiting for it; then it lets it work again.
func (d *demo) chaos(ctx context.Context) (err error) {
	turn := func(ctx context.Context, down bool) error {
		return d.do(ctx, http.MethodPut, "/v1/sandbox/payments", nil, map[string]bool{"down": down}, &struct{}{})
	}
	if !d.until(ctx, time.Now().Add(demoPatience), func() bool { return int(d.decided.Load()) >= d.total/4 }) {
		return ctx.Err()
	}
	if err := turn(ctx, true); err != nil {
		return fmt.Errorf("--chaos needs the sandbox: %w", err)
	}
	defer func() { err = errors.Join(err, turn(context.WithoutCancel(ctx), false)) }()
	d.note("the payment provider is down")
	back := time.Now().Add(downAtMost)
	if d.until(ctx, back, func() bool { return d.breaker(ctx) == "open" }) {
		d.note("its breaker is open: nobody asks it any more, orders wait")
	}
	if d.until(ctx, back, func() bool { return d.compensating(ctx) }) {
		d.note("the first sagas have waited long enough and turn back; they end when the provider has heard of it")
	}
	if err := turn(ctx, false); err != nil {
		return err
	}
	d.note("the payment provider works again")
	if d.until(ctx, time.Now().Add(downAtMost), func() bool { return d.breaker(ctx) == "closed" }) {
		d.note("its breaker is closed")
	}
	return nil
}

// until waits for something, and tells whether it came about in time.
func (d *demo) until(ctx context.Context, deadline time.Time, so func() bool) bool {
	for !so() {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
		time.Sleep(100 * time.Millisecond)
	}
	return true
}

func (d *demo) breaker(ctx context.Context) string {
	var list struct {
		Breakers []struct{ Name, State string }
	}
	if d.do(ctx, http.MethodGet, "/v1/breakers", nil, nil, &list) != nil {
		return ""
	}
	for _, b := range list.Breakers {
		if b.Name == "payments" {
			return b.State
		}
	}
	return ""
}

func (d *demo) compensating(ctx context.Context) bool {
	var list struct{ Sagas []struct{} }
	return d.do(ctx, http.MethodGet, "/v1/sagas?status=compensating&limit=1", nil, nil, &list) == nil && len(list.Sagas) > 0
}
