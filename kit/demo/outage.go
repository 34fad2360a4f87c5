package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Outage is the fault of --chaos: a stand-in of the sandbox is down until its circuit breaker is open and a saga has timed out.
type Outage struct {
	Service string // name of the stand-in and of its circuit breaker, such as "payments"
	Called  string // the name in messages, such as "the payment provider"
}

// downAtMost limits how long a stand-in is down, and how long its circuit breaker may take to close.
const downAtMost = 40 * time.Second

// strike starts the outage when a quarter of the tasks has ended. The second half of the tasks waits until then; otherwise all tasks could end before.
func (o Outage) strike(ctx context.Context, r *run) (err error) {
	begun := sync.OnceFunc(func() { close(r.struck) })
	defer begun()
	setDown := func(ctx context.Context, down bool) error {
		return r.client.Do(ctx, http.MethodPut, "/v1/sandbox/"+o.Service, nil, map[string]bool{"down": down}, nil)
	}
	seen := func(patience time.Duration, what func() bool) bool {
		return Until(ctx, 100*time.Millisecond, patience, func() (bool, error) { return what(), nil }) == nil
	}
	if !seen(taskPatience, func() bool { return int(r.ended.Load()) >= r.total/4 }) {
		return ctx.Err()
	}
	if err := setDown(ctx, true); err != nil {
		return fmt.Errorf("--chaos needs the sandbox: %w", err)
	}
	defer func() { err = errors.Join(err, setDown(context.WithoutCancel(ctx), false)) }()
	r.note("%s is down", o.Called)
	begun()
	back := time.Now().Add(downAtMost)
	if seen(time.Until(back), func() bool { return o.breaker(ctx, r.client) == "open" }) {
		r.note("its breaker is open: it is not called, and messages for it wait")
	}
	if seen(time.Until(back), func() bool { return compensating(ctx, r.client) }) {
		r.note("the first sagas have timed out and compensate; they end when it works again")
	}
	if err := setDown(ctx, false); err != nil {
		return err
	}
	r.note("%s works again", o.Called)
	if seen(downAtMost, func() bool { return o.breaker(ctx, r.client) == "closed" }) {
		r.note("its breaker is closed")
	}
	return nil
}

func (o Outage) breaker(ctx context.Context, c Client) string {
	var list struct {
		Breakers []struct{ Name, State string }
	}
	if c.Get(ctx, "/v1/breakers", &list) != nil {
		return ""
	}
	for _, b := range list.Breakers {
		if b.Name == o.Service {
			return b.State
		}
	}
	return ""
}

func compensating(ctx context.Context, c Client) bool {
	var list struct{ Sagas []struct{} }
	return c.Get(ctx, "/v1/sagas?status=compensating&limit=1", &list) == nil && len(list.Sagas) > 0
}
