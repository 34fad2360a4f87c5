package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// portion is how many messages are measured at a time.
const portion = 100_000

// ages shows that the outbox does not age: the relay's rate while many messages pass through one table, and then while a
// transaction that was begun before is open in another session, so that no deleted row can be vacuumed.
func ages(ctx context.Context, out io.Writer, g *environment, passed, keys int) error {
	p, err := newPassing(ctx, g, keys)
	if err != nil {
		return err
	}
	defer p.stop()
	pass := func() (time.Duration, error) { return p.pass(ctx, portion) }
	rates := func(what string, n int) (first, last float64, err error) {
		var took []time.Duration
		for i := range max(n/portion, 4) {
			d, err := pass()
			if err != nil {
				return 0, 0, err
			}
			took = append(took, d)
			fmt.Fprintf(out, "\r%s: %d messages, %.0f/s   ", what, (i+1)*portion, portion/d.Seconds())
		}
		fmt.Fprint(out, "\r")
		few := max(1, len(took)/10)
		return rate(took[:few]), rate(took[len(took)-few:]), nil
	}
	if _, err := pass(); err != nil { // to get warm
		return err
	}
	first, last, err := rates("passing", passed)
	if err != nil {
		return err
	}
	long, err := g.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer long.Rollback() // it has written nothing
	if _, err := long.ExecContext(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`); err != nil {
		return err
	}
	if _, err := long.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return err
	}
	var holds int
	if err := long.GetContext(ctx, &holds, `SELECT count(*) FROM outbox`); err != nil { // now it has a snapshot
		return err
	}
	openFirst, openLast, err := rates("a transaction is open", passed/4)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tmessages\tat first\tat last\tratio\t")
	fmt.Fprintf(table, "passed through one table\t%d\t%.0f/s\t%.0f/s\t%.2f\t\n", passed, first, last, last/first)
	fmt.Fprintf(table, "with a transaction open elsewhere\t%d\t%.0f/s\t%.0f/s\t%.2f\t\n", max(passed/4, 4*portion), openFirst, openLast, openLast/first)
	return table.Flush()
}

func rate(took []time.Duration) float64 {
	var all time.Duration
	for _, d := range took {
		all += d
	}
	return float64(len(took)) * portion / all.Seconds()
}
