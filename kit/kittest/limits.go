package kittest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// OwnServices returns settings for a PostgreSQL and a Kafka that run outside the process of the instance: none for real services, otherwise embedded services
// in the process of the test. Limits that are set for an instance then apply to the instance alone. It needs Main.
func OwnServices(t *testing.T, service ...fs.FS) []string {
	t.Helper()
	if Real() {
		return nil
	}
	_, dsn := Database(t, service...)
	return []string{"POSTGRES_DSN=" + dsn, "KAFKA_BROKERS=" + strings.Join(Kafka(t), ",")}
}

// RunBy makes another program run all commands of this environment, such as prlimit, which limits them. Prefix is its command line.
func (w *Environment) RunBy(prefix ...string) { w.runBy = prefix }

// Cgroup is a memory cgroup, version 1 or 2.
type Cgroup struct {
	dir             string
	peak, oomEvents string // names of files in dir
}

// MemoryCgroup makes a memory cgroup with a limit in bytes, which is removed at the end of the test. The test is skipped if no cgroup can be made.
func MemoryCgroup(t *testing.T, limit int) *Cgroup {
	t.Helper()
	name := "millrace-test-" + uuid.NewString()[:8]
	for _, c := range []struct{ root, limit, peak, oomEvents string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"},
		{"/sys/fs/cgroup", "memory.max", "memory.peak", "memory.events"},
	} {
		dir := filepath.Join(c.root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, c.limit), []byte(strconv.Itoa(limit)), 0o600) != nil {
			_ = os.Remove(dir) // the controller is not enabled
			continue
		}
		_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0o600) // version 2, on hosts with swap
		t.Cleanup(func() {
			Eventually(t, func() error { return os.Remove(dir) }) // succeeds once the last process of the cgroup has ended
		})
		return &Cgroup{dir, c.peak, c.oomEvents}
	}
	t.Skip("no memory cgroup can be made here: needs root and a writable /sys/fs/cgroup")
	return nil
}

// RunIn makes all commands of this environment run in a cgroup. It replaces RunBy.
func (w *Environment) RunIn(c *Cgroup) {
	w.RunBy("sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, c.dir)
}

// Peak returns the maximum memory that the cgroup has used, in bytes.
func (c *Cgroup) Peak(t *testing.T) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.dir, c.peak))
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(t, err)
	return n
}

// Kills returns the number of processes that the kernel has killed because the limit was reached.
func (c *Cgroup) Kills(t *testing.T) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.dir, c.oomEvents))
	require.NoError(t, err)
	for line := range strings.Lines(string(content)) {
		var n int
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("no oom_kill in %s", content)
	return 0
}
