package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/kit/cli"
)

// Round rounds to two decimals.
func Round(v float64) float64 { return float64(int64(v*100+0.5)) / 100 }

// table is the live table with the progress of the tasks.
func (r *run) table() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := int(r.ended.Load())
	const width = 40
	var out bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	line("%s %d of %d decided, %.0f s", cli.Bar(float64(ended)/float64(r.total), width), ended, r.total, time.Since(r.began).Seconds())
	line("  in flight %6d", int(r.placed.Load())-ended)
	for _, status := range r.demo.Statuses {
		line("  %-9s %6d", status, r.result.ByStatus[status])
	}
	for _, reason := range slices.Sorted(maps.Keys(r.result.ByReason)) {
		line("    %6d  %s", r.result.ByReason[reason], reason)
	}
	for _, h := range r.result.Happened {
		line("  %5.1f s  %s", h.At, h.What)
	}
	return out.Bytes()
}

// show prints the result as a table or as JSON.
func (d Demo) show(w io.Writer, r Result, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(d.JSON(r))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(table, format+"\n", args...) }
	line("%s\t%d", d.Noun, r.Total)
	for _, status := range d.Statuses {
		line("%s\t%d", status, r.ByStatus[status])
	}
	for _, reason := range slices.Sorted(maps.Keys(r.ByReason)) {
		line("  %s\t%d", reason, r.ByReason[reason])
	}
	besides := ""
	if r.Slow > 0 {
		besides = fmt.Sprintf(", without %d that %s", r.Slow, d.Slow)
	}
	line("time\t%.1f s", r.Took.Seconds())
	line("rate\t%.0f %s/s%s", r.PerSecond, d.Noun, besides)
	line("until decided\tp50 %d ms, p99 %d ms", r.P50.Milliseconds(), r.P99.Milliseconds())
	for _, h := range r.Happened {
		line("after %.1f s\t%s", h.At, h.What)
	}
	if r.Report.Consistent() {
		line("invariants\tconsistent: nothing was lost, and nothing was done twice")
	}
	for _, f := range r.Report.Faults {
		line("invariants\tNOT consistent: %s", f)
	}
	return table.Flush()
}
