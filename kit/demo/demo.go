// Package demo makes a command that demonstrates a service: it starts a number of tasks through the HTTP API, follows each task until it has ended, shows a
// live table, checks the invariants afterwards, and prints the result as a table or as JSON. The service defines its tasks and its invariants. Tests can use
// the client and the checks too.
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

// Limits of a demo.
const (
	inFlight      = 48              // tasks that run at the same time
	taskPatience  = 3 * time.Minute // until a task must have ended
	checkPatience = 30 * time.Second
	callTimeout   = 40 * time.Second
)

// Demo describes the demo of a service. Command makes the command.
type Demo struct {
	Noun     string   // the word for tasks, in the plural, such as "orders"; the flag --orders sets their number
	Short    string   // the description of the command in one line
	Statuses []string // the statuses with which a task can end, in the order of the table
	Outage   Outage   // the fault that --chaos causes; without it the command has no such flag

	// Prepare creates what the tasks need. Optional.
	Prepare func(ctx context.Context, c Client, total int) error

	// Task starts the task with number n (from 0) of total tasks and waits until it has ended. The context is cancelled after three minutes.
	Task func(ctx context.Context, c Client, n, total int) (Outcome, error)

	// Slow describes the tasks whose Outcome is slow, as the predicate of a sentence, such as "wait for the payment provider's time-out".
	Slow string

	// Check checks the invariants. It is called repeatedly until they hold, for at most 30 seconds.
	Check func(ctx context.Context, c Client, total int) (Report, error)

	// JSON converts a result to the value that --json prints.
	JSON func(r Result) any

	// Instead has other demos by the flags that choose them: the demo "returns" runs with demo --returns. The other flags of this demo apply to them too.
	Instead map[string]Demo
}

// Outcome is the result of a task.
type Outcome struct {
	Status, Reason string
	Slow           bool // the task waits for a time-out by design, so the rate and the latencies do not include it
}

// Result is the result of a demo.
type Result struct {
	Total     int
	ByStatus  map[string]int
	ByReason  map[string]int
	Slow      int           // number of slow tasks
	Took      time.Duration // until all tasks had ended
	PerSecond float64       // ended tasks per second, without slow tasks
	P50, P99  time.Duration // latencies of tasks, without slow tasks
	Happened  []Happening   // events of --chaos
	Report    Report
}

// Happening is an action or an observation of the demo.
type Happening struct {
	At   float64 `json:"at"` // seconds since the start of the tasks
	What string  `json:"what"`
}

// Command returns the command "demo". It uses the running service, or starts one for the demo if none answers. It fails if the invariants do not hold.
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
