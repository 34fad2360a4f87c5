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

// OwnServices returns the settings of a PostgreSQL and a Kafka that run outside of the instance's process: the real ones, or embedded
// ones in the test's process. Limits that are set for an instance then hold for the instance alone. It needs kittest.Main.
func OwnServices(t *testing.T, service ...fs.FS) []string {
	t.Helper()
	if Real() {
		return nil
	}
	_, dsn := Database(t, service...)
	return []string{"POSTGRES_DSN=" + dsn, "KAFKA_BROKERS=" + strings.Join(Kafka(t), ",")}
}

// RunBy has all commands of this world started by another program, which limits them: prlimit, for example.
func (w *Environment) RunBy(prefix ...string) { w.runBy = prefix }

// Cgroup is a memory cgroup, version 1 or 2.
type Cgroup struct {
	dir             string
	peak, oomEvents string // names of files
}

// MemoryCgroup makes a memory cgroup with a limit, in bytes. The test is skipped where that is not possible.
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
			_ = os.Remove(dir) // the controller is not enabled here
			continue
		}
		_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0o600) // version 2, where there is swap
		t.Cleanup(func() {
			Eventually(t, func() error { return os.Remove(dir) }) // once its last process has ended
		})
		return &Cgroup{dir, c.peak, c.oomEvents}
	}
	t.Skip("no memory cgroup can be made here: needs root and a writable /sys/fs/cgroup")
	return nil
}

// RunIn has all commands of this world started in a cgroup.
func (w *Environment) RunIn(c *Cgroup) {
	w.RunBy("sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, c.dir)
}

// Peak is the most memory that was used, in bytes.
func (c *Cgroup) Peak(t *testing.T) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.dir, c.peak))
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(t, err)
	return n
}

// Kills is how many processes the kernel has killed because the limit was reached.
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
