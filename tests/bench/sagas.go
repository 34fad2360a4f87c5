package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/service"
	"github.com/millrace/millrace/service/demo/invariants"
)

// fleet is some instances of the service in this process, on a database and topics of their own.
type fleet struct {
	g         *environment
	instances []*runner.Instance
	outside   *outside
	http      *http.Client
}

func startFleet(ctx context.Context, g *environment, roles []string, more ...string) (f *fleet, stop func() error, err error) {
	f = &fleet{g: g, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256}, Timeout: 30 * time.Second}}
	stop = func() error {
		var faults []error
		for _, i := range slices.Backward(f.instances) {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
			faults = append(faults, i.Stop(stopping))
			cancel()
		}
		f.http.CloseIdleConnections()
		if f.outside != nil {
			faults = append(faults, f.outside.stop())
		}
		own := service.New()
		report, err := own.Audit(context.WithoutCancel(ctx), g.dsn, time.Minute, g.log)
		if err == nil && !report.Consistent {
			err = fmt.Errorf("the audit of what a case has stored: %+v", report.Checks)
		}
		return errors.Join(append(faults, err)...)
	}
	if f.outside, err = startOutside(g.dir); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	for n, role := range roles {
		settings := map[string]string{
			"POSTGRES_DSN": g.dsn, "KAFKA_BROKERS": g.brokers[0], "TOPIC_PREFIX": "bench" + g.stamp, "HTTP_ADDR": "127.0.0.1:0",
			"ROLES": role, "DATA_DIR": fmt.Sprint(g.dir, "/instance-", n),
		}
		given := slices.Concat(f.outside.settings, more)
		for i := 0; i+1 < len(given); i += 2 {
			settings[given[i]] = given[i+1]
		}
		own := service.New()
		config, err := runner.ReadConfig(&own, func(name string) string { return settings[name] })
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		s, err := runner.Start(ctx, &own, config, g.log, func(string) {})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		f.instances = append(f.instances, s)
	}
	return f, stop, nil
}

func (f *fleet) post(ctx context.Context, path string, body any, header ...string) error {
	return post(ctx, f.http, f.instances[0].URL+path, body, header...)
}

func sku(n int) string { return "SKU-" + strconv.Itoa(n) }

// stock receives plenty of each SKU.
func (f *fleet) stock(ctx context.Context, skus int) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(32)
	for n := range skus {
		all.Go(func() error {
			return f.post(ctx, "/v1/stock/"+sku(n)+"/receipts", map[string]int{"quantity": 1_000_000})
		})
	}
	return all.Wait()
}

func orderOf(sku string) map[string]any {
	return map[string]any{
		"lines": []map[string]any{{"sku": sku, "quantity": 1, "unit_price": 1250}}, "currency": "EUR", "payment_method": "pm_ok",
	}
}

// order places one.
func (f *fleet) order(ctx context.Context, sku string) error {
	return f.post(ctx, "/v1/orders", orderOf(sku))
}

// ended counts the sagas that are at rest.
func (f *fleet) ended(ctx context.Context) (n int, err error) {
	err = f.g.db.GetContext(ctx, &n, `SELECT count(*) FROM saga_instances WHERE status IN ('completed', 'compensated')`)
	return n, err
}

// run places orders over SKUs as fast as clients can, and returns how long it took until every saga had ended.
func (f *fleet) run(ctx context.Context, orders, skus, clients int, progress func()) (time.Duration, error) {
	before, err := f.ended(ctx)
	if err != nil {
		return 0, err
	}
	began, placed := time.Now(), make(chan error, 1)
	go func() { placed <- f.outside.place(load{f.instances[0].URL, orders, skus, clients}) }()
	for all := false; ; {
		n, err := f.ended(ctx)
		progress()
		switch {
		case err != nil:
			return 0, err
		case all && n-before >= orders:
			return time.Since(began), nil
		case time.Since(began) > 10*time.Minute:
			return 0, fmt.Errorf("%d of %d sagas ended", n-before, orders)
		}
		select {
		case err := <-placed:
			if all = true; err != nil {
				return 0, err
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(100 * time.Millisecond): // counting them costs something too
		}
	}
}

// consistent waits until the invariants hold.
func (f *fleet) consistent(ctx context.Context, orders int) error {
	client := invariants.Client{URL: f.instances[0].URL, SandboxURL: f.outside.base, HTTP: f.http, AtLeast: orders}
	report, err := client.Wait(ctx, time.Minute)
	if err == nil && !report.Consistent() {
		err = errors.New(report.Sentence())
	}
	return err
}

// cases are measured one after the other, in each round.
var cases = []struct {
	name    string
	measure func(ctx context.Context, g *environment, o options, r *report) error
}{
	{"relay", relaying},
	{"sagas", func(ctx context.Context, g *environment, o options, r *report) error {
		return fulfil(ctx, g, o, r, "order-fulfilment, 1,000 SKUs", 1000, 1)
	}},
	{"one SKU", func(ctx context.Context, g *environment, o options, r *report) error {
		return fulfil(ctx, g, o, r, "order-fulfilment, one SKU", 1, 1)
	}},
	{"three instances", func(ctx context.Context, g *environment, o options, r *report) error {
		return fulfil(ctx, g, o, r, "order-fulfilment, three instances", 1000, 3)
	}},
	{"three instances, distributed", func(ctx context.Context, g *environment, o options, r *report) error {
		return fulfil(ctx, g, o, r, "order-fulfilment, three instances, distributed", 1000, 3, "LOAD_DISTRIBUTION", "instances")
	}},
	{"http", accept},
	{"backlog", backlog},
	{"rebuild", rebuilding},
	{"loading", loading},
	{"rest", resting},
}

// baselines do six steps each.
var baselines = []struct {
	name    string
	measure func(ctx context.Context, g *environment, orders, probes int) (perSecond, p50 float64, err error)
}{
	{"stock Watermill", func(ctx context.Context, g *environment, orders, probes int) (float64, float64, error) {
		return stocked(ctx, g, 0, orders, probes)
	}},
	{"stock Watermill, poll 10 ms", func(ctx context.Context, g *environment, orders, probes int) (float64, float64, error) {
		return stocked(ctx, g, 10*time.Millisecond, orders, probes)
	}},
	{"DBOS, no broker", dbos},
}

// dbos runs the program in the directory dbos, which has a list of modules of its own.
func dbos(ctx context.Context, g *environment, orders, probes int) (perSecond, p50 float64, err error) {
	command := exec.CommandContext(ctx, "go", "run", "-modfile=tests/bench/dbos/dbos.mod", "tests/bench/dbos/main.go", "-workflows", strconv.Itoa(2*orders), "-probes", strconv.Itoa(probes))
	command.Env, command.Stderr = append(os.Environ(), "POSTGRES_DSN="+g.dsn), os.Stderr
	answer, err := command.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("in tests/bench/dbos: %w", err)
	}
	var measured struct{ Rate, P50 float64 }
	err = json.Unmarshal(answer, &measured)
	return measured.Rate, measured.P50, err
}

// fulfil runs sagas and checks the invariants; with one instance and many SKUs it also times single ones.
func fulfil(ctx context.Context, g *environment, o options, r *report, name string, skus, instances int, settings ...string) (err error) {
	f, stop, err := startFleet(ctx, g, slices.Repeat([]string{"api,worker,relay"}, instances), settings...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := f.stock(ctx, skus); err != nil {
		return err
	}
	if _, err := f.run(ctx, o.sagas/5, skus, 32, func() {}); err != nil { // to get warm
		return err
	}
	before, stored := f.costs(), storedIn(ctx, g)
	most := 0.0
	took, err := f.run(ctx, o.sagas, skus, 32, func() { most = max(most, memory()) })
	if err != nil {
		return err
	}
	used, grown := since(before, f.costs()), storedIn(ctx, g)
	if err := f.consistent(ctx, o.sagas+o.sagas/5); err != nil {
		return err
	}
	rate := float64(o.sagas) / took.Seconds()
	switch {
	case instances > 1 && r.alone > 0:
		r.add(name, "sagas/s", rate, "one instance", r.alone)
		return nil
	case instances > 1 || skus == 1:
		r.add(name, "sagas/s", rate, "", 0)
		return nil
	}
	r.alone = rate
	r.add("written ahead (WAL) a saga", "kB", (grown.wal-stored.wal)/float64(o.sagas)/1000, "", 0)
	r.add("database a saga", "kB", (grown.database-stored.database)/float64(o.sagas)/1000, "", 0)
	r.add("topics a saga", "kB", (grown.topics-stored.topics)/float64(o.sagas)/1000, "", 0)
	r.add("memory under load, service", "MB", most/1e6, "", 0)
	for _, part := range slices.Sorted(maps.Keys(used)) {
		r.add("CPU a saga, "+part, "ms", ms(used[part])/float64(o.sagas), "", 0)
	}
	var single []time.Duration
	for n := range o.probes {
		time.Sleep(20 * time.Millisecond)
		began := time.Now()
		if err := f.post(ctx, "/v1/orders", orderOf(sku(n%skus)), "Prefer", "wait=20"); err != nil {
			return err
		}
		single = append(single, time.Since(began))
	}
	slices.Sort(single)
	p50, p99 := ms(single[len(single)/2]), ms(single[len(single)*99/100])
	if err := stop(); err != nil {
		return err
	}
	stop = func() error { return nil }
	for _, against := range baselines {
		if o.alone {
			continue
		}
		environment, clean, err := newEnvironment(ctx)
		if err != nil {
			return err
		}
		theirRate, theirP50, err := against.measure(ctx, environment, max(o.sagas/10, 100), max(o.probes/13, 3))
		if err := errors.Join(err, clean()); err != nil {
			return fmt.Errorf("%s: %w", against.name, err)
		}
		r.add(name+" ("+against.name+")", "sagas/s", rate, against.name, theirRate)
		r.add("one saga at low load, p50 ("+against.name+")", "ms", p50, against.name, theirP50)
	}
	if o.alone {
		r.add(name, "sagas/s", rate, "", 0)
		r.add("one saga at low load, p50", "ms", p50, "", 0)
	}
	r.add("one saga at low load, p99", "ms", p99, "", 0)
	return nil
}

// accept measures how many orders an instance of the api alone takes, each on the disk before it is answered.
func accept(ctx context.Context, g *environment, o options, r *report) (err error) {
	f, stop, err := startFleet(ctx, g, []string{"api"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var next atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	clients, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range 64 {
		clients.Go(func() error {
			var own []time.Duration
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				took = append(took, own...)
			}()
			for {
				n := int(next.Add(1))
				if n > o.requests {
					return nil
				}
				at := time.Now()
				if err := f.order(ctx, sku(n%1000)); err != nil {
					return err
				}
				own = append(own, time.Since(at))
			}
		})
	}
	if err := clients.Wait(); err != nil {
		return err
	}
	rate := float64(o.requests) / time.Since(began).Seconds()
	var stored int
	if err := g.db.Get(&stored, `SELECT count(*) FROM events`); err != nil || stored != o.requests {
		return errors.Join(err, fmt.Errorf("%d of %d orders are stored", stored, o.requests))
	}
	slices.Sort(took)
	r.add("POST /v1/orders, api role alone", "orders/s", rate, "", 0)
	r.add("POST /v1/orders, p99", "ms", ms(took[len(took)*99/100]), "", 0)
	return nil
}
