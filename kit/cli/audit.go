package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Audit is the result of the checks of the stored data. Consistent is true if no check found a fault.
type Audit struct {
	Consistent bool         `json:"consistent"`
	Checks     []AuditCheck `json:"checks"`
}

// AuditCheck is the result of one check: the number of checked items, the number of faulty items, and the ids of some faulty items.
type AuditCheck struct {
	Check   string   `json:"check"`
	Checked int64    `json:"checked"`
	Faults  int64    `json:"faults"`
	IDs     []string `json:"ids,omitempty"`
}

// audit makes the command that checks the stored data and prints a table, or JSON. It exits with 1 if a check found a fault.
func (a *App) audit() *cobra.Command {
	asJSON := false
	c := &cobra.Command{Use: "audit", Short: "Check what is stored; exit with 1 and the ids if something is wrong", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		report, err := a.Audit(c.Context())
		if err == nil {
			err = a.showAudit(report, asJSON)
		}
		if err == nil && !report.Consistent {
			err = errors.New("audit: what is stored is not consistent")
		}
		return err
	}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *App) showAudit(report Audit, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(a.Stdout).Encode(report)
	}
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
	return nil
}
