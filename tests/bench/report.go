package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// report gathers figures over the rounds.
type report struct {
	figures []*figure
	alone   float64 // sagas/s of one instance in this round
}

type figure struct {
	name, unit, baselineName string
	ours, baselines          []float64
}

// add notes what a round has measured. Without a baseline, its name is empty.
func (r *report) add(name, unit string, ours float64, baselineName string, baseline float64) {
	at := slices.IndexFunc(r.figures, func(f *figure) bool { return f.name == name })
	if at < 0 {
		at = len(r.figures)
		r.figures = append(r.figures, &figure{name: name, unit: unit, baselineName: baselineName})
	}
	f := r.figures[at]
	f.ours = append(f.ours, ours)
	if baselineName != "" {
		f.baselines = append(f.baselines, baseline)
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

type line struct {
	Name     string   `json:"name"`
	Ours     float64  `json:"ours"`
	Baseline *float64 `json:"baseline,omitempty"`
	Against  string   `json:"against,omitempty"`
	Ratio    *float64 `json:"ratio,omitempty"` // ours to the baseline
	Unit     string   `json:"unit"`
}

func (r *report) lines() []line {
	var out []line
	for _, f := range r.figures {
		l := line{Name: f.name, Ours: median(f.ours), Unit: f.unit, Against: f.baselineName}
		if f.baselineName != "" {
			baseline := median(f.baselines)
			ratio := l.Ours / baseline
			l.Baseline, l.Ratio = &baseline, &ratio
		}
		out = append(out, l)
	}
	return out
}

func (r *report) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\tours\tbaseline\tratio\tagainst\tlowest and highest of ours")
	for i, l := range r.lines() {
		baseline, ratio := "", ""
		if l.Baseline != nil {
			baseline, ratio = number(*l.Baseline)+" "+l.Unit, fmt.Sprintf("%.3g", *l.Ratio)
		}
		ours := r.figures[i].ours
		fmt.Fprintf(table, "%s\t%s %s\t%s\t%s\t%s\t%s to %s\n", l.Name, number(l.Ours), l.Unit, baseline, ratio, l.Against, number(slices.Min(ours)), number(slices.Max(ours)))
	}
	return table.Flush()
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func (r *report) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r.lines(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
