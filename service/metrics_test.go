package service

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/runner"
)

var (
	metricForm = regexp.MustCompile(`\b((?:millrace_|go_|process_)[a-z_]+)(?:\{([^}]*)\})?`)
	labelForm  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	byForm     = regexp.MustCompile(`by \(([^)]*)\)`)
	exprForm   = regexp.MustCompile(`(?m)^\s+expr: (.*)$`)
)

// faults returns the names in an expression that are not metrics.
func faults(known map[string][]string, expr string) (faults []string) {
	var all []string
	for _, found := range metricForm.FindAllStringSubmatch(expr, -1) {
		name := found[1]
		labels, ok := known[name]
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if base, cut := strings.CutSuffix(name, suffix); !ok && cut {
				labels, ok = known[base]
			}
		}
		if !ok {
			faults = append(faults, "there is no metric "+name+": "+expr)
			continue
		}
		all = append(all, labels...)
		for _, label := range labelForm.FindAllStringSubmatch(found[2], -1) {
			if !slices.Contains(labels, label[1]) {
				faults = append(faults, name+" has no label "+label[1]+": "+expr)
			}
		}
	}
	for _, by := range byForm.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(by[1], ",") {
			if !slices.Contains(all, strings.TrimSpace(label)) {
				faults = append(faults, "no metric has the label "+label+": "+expr)
			}
		}
	}
	return faults
}

func TestAlertsAndDashboardNameWhatThereIs(t *testing.T) {
	known := runner.Metrics()
	rules, err := os.ReadFile("../deploy/prometheus/alerts.yml")
	require.NoError(t, err)
	var exprs []string
	for _, found := range exprForm.FindAllStringSubmatch(string(rules), -1) {
		exprs = append(exprs, found[1])
	}
	require.Len(t, exprs, strings.Count(string(rules), "- alert:"))
	board, err := os.ReadFile("../deploy/grafana/millrace.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(board, &dashboard))
	for _, p := range dashboard.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	require.Greater(t, len(exprs), 25)
	for _, expr := range exprs {
		require.Empty(t, faults(known, expr))
		require.Regexp(t, metricForm, expr)
		require.Equal(t, strings.Count(expr, "("), strings.Count(expr, ")"), expr)
	}

	for expr, fault := range map[string]string{
		"max(millrace_outbox_elderly) > 3":                       "there is no metric millrace_outbox_elderly",
		`rate(millrace_messages_failed_total{what="dead"}[5m])`:  "has no label what",
		"sum by (topic) (rate(millrace_saga_seconds_count[1m]))": "no metric has the label topic",
	} {
		require.Contains(t, strings.Join(faults(known, expr), "\n"), fault, "the check finds what is wrong")
	}
}
