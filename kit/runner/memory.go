package runner

import (
	"fmt"
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// collectAt is by how much the heap may grow before it is collected, in percent, unless GOGC is set. Messages are small and live
// shortly: with Go's default of 100, a quarter of the time at full load is spent on collecting them.
const collectAt = 400

// memoryShare is which part of a cgroup's memory the Go runtime may use. The rest is for what the runtime does not count: the binary's
// pages, the kernel's socket buffers and, with the embedded default, PostgreSQL.
const memoryShare = 0.75

// memory is what this process may use, in bytes; 0: as much as there is.
type memory struct {
	limit, cgroup int64
	byUser        bool // set by GOMEMLIMIT
}

// limitMemory has the garbage collector keep the heap below the cgroup's limit, because the kernel kills a process that reaches it.
// GOMEMLIMIT and GOGC, which the Go runtime reads by itself, are left as they are.
func limitMemory(getenv func(string) string) memory {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	var m memory
	if limit, err := memlimit.FromCgroup(); err == nil && limit < math.MaxInt64 { // an error: no cgroup, or no limit
		m.cgroup = int64(limit) // compared above
	}
	switch {
	case getenv("GOMEMLIMIT") != "":
		if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
			m.limit, m.byUser = limit, true
		}
	case m.cgroup > 0:
		m.limit = int64(memoryShare * float64(m.cgroup))
		debug.SetMemoryLimit(m.limit)
	}
	return m
}

// What is held in memory is bounded by these parts of the limit: cached aggregates by an eighth; the records that are in flight by an
// eighth, and those that are fetched ahead by another one, which about sixteen consumer groups share.
const (
	cacheShare  = 8
	groupsShare = 8 * 16
)

// memoryFor returns the bound of a queue or a cache, in bytes: a share of the memory limit, within most and least; most if there is no
// limit.
func memoryFor(most, share, least int) int {
	return int(min(int64(most), max(int64(least), debug.SetMemoryLimit(-1)/int64(share))))
}

// String is for the banner.
func (m memory) String() string {
	switch {
	case m.limit == 0:
		return "no limit"
	case m.byUser:
		return fmt.Sprintf("at most %d MiB, set by GOMEMLIMIT", m.limit>>20)
	default:
		return fmt.Sprintf("at most %d MiB of the %d MiB of the cgroup", m.limit>>20, m.cgroup>>20)
	}
}
