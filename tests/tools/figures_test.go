package tools

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// production are Go files that a team owns and runs: not the kit, not tests and tools, not generated code.
var (
	outside   = regexp.MustCompile(`^(kit|tests|tools|examples)/|_test\.go$|\.pb\.go$`)
	generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
)

// lines counts the lines of production Go.
func (m mine) lines() (n int) {
	m.t.Helper()
	for path := range strings.Lines(m.must("git", "ls-files", "-co", "--exclude-standard", "*.go")) {
		path = strings.TrimSpace(path)
		if outside.MatchString(path) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.dir, path))
		if os.IsNotExist(err) {
			continue // deleted, and not committed
		}
		require.NoError(m.t, err)
		if !generated.Match(text) {
			n += strings.Count(string(text), "\n")
		}
	}
	return n
}

// The figures of docs/concepts.md. With -v they are printed.
func TestFigures(t *testing.T) {
	m := own(t)
	with := m.lines()
	composition, err := os.ReadFile(filepath.Join(m.dir, "service/service.go"))
	require.NoError(t, err)
	t.Logf("production Go outside kit/: %d lines; the composition: %d", with, strings.Count(string(composition), "\n"))
	// Order fulfilment and the service around it take 3,000 lines. Returns, the second process, take 1,060 more: 180 the saga, 300 the decisions and events,
	// 190 the commands, 200 the route, the page and the sandbox's warehouse, 190 the demo and the invariants.
	require.LessOrEqual(t, with, 4060, "the example and the service around it")
	require.LessOrEqual(t, strings.Count(string(composition), "\n"), 150, "service/service.go")
	takesMinutes(t)
	m.must("go", "run", "./tools/removeexample")
	t.Logf("after remove-example: %d lines", m.lines())
	require.LessOrEqual(t, m.lines(), 300, "after remove-example")
}
