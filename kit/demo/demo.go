// Package demo makes a command that shows a service at work: it begins a number of tasks through the HTTP API, follows each until it has ended, shows
// a live table, checks the invariants afterwards, and prints the result as a table or as JSON. The service says what a task is and which invariants
// hold; tests use the client and the checks too.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/runner"
)

// Bounds of a demo.
const (
	inFlight      = 48              // tasks
	taskPatience  = 3 * time.Minute // of a task
	checkPatience = 30 * time.Second
	callTimeout   = 40 * time.Second
)

// Demo describes the demo of a service.
type Demo struct {
	Noun     string   // what tasks are, in the plural: "orders"; the number is set with --orders
	Short    string   // one line about the command
	Statuses []string // that a task can end with, in the order of the table
	Outage   Outage   // of --chaos

	// Prepare makes ready what the tasks need. Optional.
	Prepare func(ctx context.Context, c Client, total int) error

	// Task begins the nth task of so many and waits until it has ended. Its context ends with an error if that takes too long.
	Task func(ctx context.Context, c Client, n, total int) (Outcome, error)

	// Slow says what the tasks with a slow Outcome do: "wait for the payment provider's time-out".
	Slow string

	// Check checks the invariants. It is called until they hold, or for thirty seconds.
	Check func(ctx context.Context, c Client, total int) (Report, error)

	// JSON makes what --json prints of a result.
	JSON func(r Result) any

	// Instead are other demos, by the flags that choose them: "returns" is run by demo --returns. The flags of this one hold for them too.
	Instead map[string]Demo
}

// Outcome is how a task has ended.
type Outcome struct {
	Status, Reason string
	Slow           bool // the task waits for a time-out by design: rate and latencies leave it out
}

// Result is what a demo found.
type Result struct {
	Total     int
	ByStatus  map[string]int
	ByReason  map[string]int
	Slow      int           // of all tasks
	Took      time.Duration // of all tasks
	PerSecond float64       // without slow tasks
	P50, P99  time.Duration // until a task had ended, without slow ones
	Happened  []Happening   // of --chaos
	Report    Report
}

// Happening is something that the demo did or saw.
type Happening struct {
	At   float64 `json:"at"` // seconds since the beginning
	What string  `json:"what"`
}

// Command is the command demo.
func (d Demo) Command(p *runner.Program) *cobra.Command {
	total, url, asJSON, chaos, instead := 100, "", false, false, map[string]*bool{}
	c := &cobra.Command{Use: "demo", Short: d.Short, Args: cli.Args(0), RunE: func(c *cobra.Command, _ []string) error {
		if total < 1 || total > 1_000_000 {
			return fmt.Errorf("%w: --%s must be from 1 to 1000000", cli.ErrUsage, d.Noun)
		}
		chosen := d
		for flag, set := range instead {
			if *set {
				chosen = d.Instead[flag]
			}
		}
		return chosen.run(c.Context(), p, url, total, chaos, asJSON)
	}}
	for flag, other := range d.Instead {
		instead[flag] = c.Flags().Bool(flag, false, other.Short)
	}
	c.Flags().IntVar(&total, d.Noun, total, "how many "+d.Noun+" to place")
	c.Flags().StringVar(&url, "url", url, "a running service; without it the one that the settings name, or one that is started for the demo")
	if d.Outage.Service != "" {
		c.Flags().BoolVar(&chaos, "chaos", chaos, "take "+d.Outage.Called+" of the sandbox down in the middle")
	}
	c.Flags().BoolVar(&asJSON, "json", asJSON, "print one JSON object")
	return c
}

func (d Demo) run(ctx context.Context, p *runner.Program, url string, total int, chaos, asJSON bool) (err error) {
	checkTopics := func(context.Context) ([]string, error) { return nil, nil }
	if url == "" {
		if url = p.URL; p.Alive(ctx) != nil {
			p.Say("no service answers at " + p.URL + "; starting one")
			instance, stop, startErr := p.StartQuiet(ctx)
			if startErr != nil {
				return startErr
			}
			defer func() { err = errors.Join(err, stop()) }()
			url, checkTopics = instance.OpsURL, instance.CheckTopics
		}
	}
	client := Client{strings.TrimRight(url, "/"), p.Client(callTimeout, &http.Transport{MaxIdleConnsPerHost: inFlight})}
	result, err := d.measure(ctx, client, total, chaos, p.Live)
	if err != nil {
		return err
	}
	report, err := Wait(ctx, checkPatience, func(ctx context.Context) (*Report, error) {
		report, err := d.Check(ctx, client, total)
		return &report, err
	})
	if err != nil {
		return fmt.Errorf("check the invariants: %w", err)
	}
	faults, err := checkTopics(ctx)
	if err != nil {
		return fmt.Errorf("compare the event store with the topics: %w", err)
	}
	report.Faults = append(report.Faults, faults...)
	result.Report = *report
	if err := d.show(p.Stdout, result, asJSON); err != nil {
		return err
	}
	if !report.Consistent() {
		return errors.New("the invariants do not hold")
	}
	return nil
}
