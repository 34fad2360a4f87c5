//go:build ignore

// Dbos measures DBOS Transact as a baseline: workflows of six steps that do nothing, in one process, on the PostgreSQL of
// POSTGRES_DSN. It prints {"rate": workflows a second, "p50": milliseconds of a single one}. It has a list of modules of its own, so that nobody
// who uses the template inherits what it needs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

const steps = 6

func workflow(ctx dbos.Context, order string) (string, error) {
	for range steps {
		if _, err := dbos.RunAsStep(ctx, func(context.Context) (string, error) { return order, nil }); err != nil {
			return "", err
		}
	}
	return order, nil
}

func main() {
	workflows := flag.Int("workflows", 2000, "how many workflows to run")
	probes := flag.Int("probes", 40, "how many to time alone")
	flag.Parse()
	if err := run(*workflows, *probes); err != nil {
		fmt.Fprintln(os.Stderr, "dbos:", err)
		os.Exit(1)
	}
}

func run(workflows, probes int) error {
	ctx, err := dbos.NewContext(context.Background(), dbos.Config{
		DatabaseURL: os.Getenv("POSTGRES_DSN"), AppName: "bench", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	dbos.RegisterWorkflow(ctx, workflow)
	if err := dbos.Launch(ctx); err != nil {
		return err
	}
	defer dbos.Shutdown(ctx, 5*time.Second)
	if _, err := all(ctx, workflows/5); err != nil { // to get warm
		return err
	}
	took, err := all(ctx, workflows)
	if err != nil {
		return err
	}
	var single []time.Duration
	for n := range probes {
		began := time.Now()
		if err := one(ctx, fmt.Sprint("probe-", n)); err != nil {
			return err
		}
		single = append(single, time.Since(began))
	}
	slices.Sort(single)
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"rate": float64(workflows) / took.Seconds(), "p50": float64(single[len(single)/2].Microseconds()) / 1000,
	})
}

func one(ctx dbos.Context, order string) error {
	handle, err := dbos.RunWorkflow(ctx, workflow, order)
	if err != nil {
		return err
	}
	got, err := handle.GetResult()
	if err == nil && got != order {
		err = fmt.Errorf("workflow %s answered %q", order, got)
	}
	return err
}

// all runs workflows from 32 clients.
func all(ctx dbos.Context, workflows int) (time.Duration, error) {
	began := time.Now()
	var next atomic.Int64
	var clients sync.WaitGroup
	failed := make(chan error, 32)
	for range 32 {
		clients.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(workflows) {
					return
				}
				if err := one(ctx, fmt.Sprint("order-", n)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	clients.Wait()
	close(failed)
	var faults []error
	for err := range failed {
		faults = append(faults, err)
	}
	return time.Since(began), errors.Join(faults...)
}
