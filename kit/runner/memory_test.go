package runner

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryLimitBoundsQueuesAndCaches(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })

	debug.SetMemoryLimit(math.MaxInt64)
	require.Equal(t, 64<<20, memoryFor(64<<20, groupsShare, 1<<20), "no limit")
	require.Equal(t, 250, memoryFor(250, relayShare, 20), "the relay's rows, no limit")
	debug.SetMemoryLimit(192 << 20)
	require.Equal(t, 3<<19, memoryFor(64<<20, groupsShare, 1<<20), "a share of the limit")
	require.Equal(t, 64, memoryFor(250, relayShare, 20), "a share for the relay's rows")
	debug.SetMemoryLimit(10 << 20)
	require.Equal(t, 1<<20, memoryFor(64<<20, groupsShare, 1<<20), "the least with which it works")
}

// GOMEMLIMIT is read by the Go runtime, and stays.
func TestMemoryLimitOfTheUserWins(t *testing.T) {
	before := debug.SetMemoryLimit(100 << 20)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	limitMemory(func(name string) string { return map[string]string{"GOMEMLIMIT": "100MiB", "GOGC": "100"}[name] })
	require.EqualValues(t, 100<<20, debug.SetMemoryLimit(-1))
}
