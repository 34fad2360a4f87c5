package runner

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

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

// The Go runtime reads GOMEMLIMIT, and the service does not change it.
func TestMemoryLimitOfTheUserWins(t *testing.T) {
	before := debug.SetMemoryLimit(100 << 20)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	limitMemory(func(name string) string { return map[string]string{"GOMEMLIMIT": "100MiB", "GOGC": "100"}[name] })
	require.EqualValues(t, 100<<20, debug.SetMemoryLimit(-1))
}

// percent keeps garbage below a bound, whatever the size of the live heap, and the collector never works more often than with Go's default.
func TestGarbageIsBounded(t *testing.T) {
	for live := uint64(0); live < 4<<30; live += 1 << 20 {
		garbage := live * uint64(percent(live)) / 100
		require.LessOrEqual(t, garbage, max(uint64(growth), live), "of %d bytes that are live", live)
		require.GreaterOrEqual(t, garbage, live, "of %d bytes that are live", live)
	}
	require.Equal(t, most, percent(1<<20), "a small heap")
}

// The percentage follows the live heap: first 100 MiB more are live after a collection, then they are not.
func TestGarbageCollectionFollowsWhatIsLive(t *testing.T) {
	before := debug.SetGCPercent(most)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	BoundGarbage()
	used := func() int {
		now := debug.SetGCPercent(most)
		debug.SetGCPercent(now)
		return now
	}
	held := make([]byte, 100<<20)
	require.Eventually(t, func() bool { runtime.GC(); return used() < 170 }, 10*time.Second, 10*time.Millisecond)
	runtime.KeepAlive(held)
	held = nil //nolint:ineffassign,wastedassign // no longer live
	require.Eventually(t, func() bool { runtime.GC(); return used() == most }, 10*time.Second, 10*time.Millisecond)
}
