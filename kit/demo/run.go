package demo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// run is a demo whose tasks are running.
type run struct {
	demo   Demo
	client Client
	total  int
	began  time.Time

	placed, ended atomic.Int64
	struck        chan struct{} // closed when the outage has begun

	mu        sync.Mutex
	result    Result
	latencies []time.Duration // of all tasks but slow ones
	prompt    time.Duration   // from the start until the last task that is not slow has ended
}

// measure runs the tasks and returns their result.
func (d Demo) measure(ctx context.Context, client Client, total int, chaos bool, live func(context.Context, func() []byte) func()) (Result, error) {
	r := &run{demo: d, client: client, total: total, struck: make(chan struct{}), result: Result{Total: total, ByStatus: map[string]int{}, ByReason: map[string]int{}}}
	if d.Prepare != nil {
		if err := d.Prepare(ctx, client, total); err != nil {
			return r.result, err
		}
	}
	r.began = time.Now()
	stop := live(ctx, r.table)
	err := r.tasks(ctx, chaos)
	stop()
	r.finish()
	return r.result, err
}

// tasks runs all tasks and the outage. The first error ends all tasks.
func (r *run) tasks(ctx context.Context, chaos bool) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var workers sync.WaitGroup
	guard := func(f func() error) {
		workers.Go(func() {
			if err := f(); err != nil {
				fail(err)
			}
		})
	}
	if chaos {
		guard(func() error { return r.demo.Outage.strike(ctx, r) })
	}
	var next atomic.Int64
	for range min(inFlight, r.total) {
		guard(func() error {
			for n := int(next.Add(1) - 1); n < r.total && ctx.Err() == nil; n = int(next.Add(1) - 1) {
				if chaos && n >= r.total/2 {
					select {
					case <-r.struck:
					case <-ctx.Done():
						return nil
					}
				}
				if err := r.task(ctx, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

func (r *run) task(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, taskPatience, fmt.Errorf("a task has not ended within %s", taskPatience))
	defer cancel()
	began := time.Now()
	r.placed.Add(1)
	outcome, err := r.demo.Task(ctx, r.client, n, r.total)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		return err
	}
	r.ended.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if outcome.Slow {
		r.result.Slow++
	} else {
		r.latencies = append(r.latencies, time.Since(began))
		r.prompt = max(r.prompt, time.Since(r.began))
	}
	r.result.ByStatus[outcome.Status]++
	if outcome.Reason != "" {
		r.result.ByReason[outcome.Reason]++
	}
	return nil
}

func (r *run) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Took = time.Since(r.began)
	if slices.Sort(r.latencies); len(r.latencies) > 0 {
		r.result.PerSecond = float64(r.total-r.result.Slow) / r.prompt.Seconds()
		quantile := func(q float64) time.Duration { return r.latencies[int(q*float64(len(r.latencies)-1))] }
		r.result.P50, r.result.P99 = quantile(0.5), quantile(0.99)
	}
}

func (r *run) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Happened = append(r.result.Happened, Happening{Round(time.Since(r.began).Seconds()), fmt.Sprintf(format, args...)})
}
