package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"text/tabwriter"
)

// Audit is what the checks of the stored data found.
type Audit struct {
	Consistent bool         `json:"consistent"`
	Checks     []AuditCheck `json:"checks"`
}

// AuditCheck is one of them: how many things it looked at, how many are wrong, and the ids of some.
type AuditCheck struct {
	Check   string   `json:"check"`
	Checked int64    `json:"checked"`
	Faults  int64    `json:"faults"`
	IDs     []string `json:"ids,omitempty"`
}

// audit checks what is stored and prints a table, or JSON. It exits with 1 if something is wrong.
func (a App) audit(ctx context.Context, args []string) error {
	asJSON := false
	rest, err := a.flags("audit", args, func(f *flag.FlagSet) { f.BoolVar(&asJSON, "json", false, "print JSON") })
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: audit [--json]", ErrUsage)
	}
	report, err := a.Audit(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		text, err := json.Marshal(report)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(a.Stdout, "%s\n", text)
	} else {
		table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "CHECK\tCHECKED\tFAULTS")
		for _, c := range report.Checks {
			_, _ = fmt.Fprintf(table, "%s\t%d\t%d\n", c.Check, c.Checked, c.Faults)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		for _, c := range report.Checks {
			for _, id := range c.IDs {
				_, _ = fmt.Fprintf(a.Stdout, "%s: %s\n", c.Check, id)
			}
			if more := c.Faults - int64(len(c.IDs)); more > 0 {
				_, _ = fmt.Fprintf(a.Stdout, "%s: %d more\n", c.Check, more)
			}
		}
	}
	if !report.Consistent {
		return errors.New("audit: what is stored is not consistent")
	}
	return nil
}
