package runner

import (
	"fmt"
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is the part of a cgroup's memory that the Go runtime may use. The rest is for memory that the runtime does not count: the
// binary's pages, the kernel's socket buffers and, with the embedded default, PostgreSQL.
const memoryShare = 0.75

// memory is the memory limit of this process, in bytes; 0: none.
type memory struct {
	limit, cgroup int64
	byUser        bool // set by GOMEMLIMIT
}

// limitMemory makes the garbage collector keep the heap below the cgroup's limit, because the kernel kills a process that reaches it.
// GOMEMLIMIT and GOGC, which the Go runtime reads itself, take precedence.
func limitMemory(getenv func(string) string) memory {
	var m memory
	if limit, err := memlimit.FromCgroup(); err == nil && limit < math.MaxInt64 { // an error means no cgroup or no limit
		m.cgroup = int64(limit) // fits: compared above
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
	switch {
	case getenv("GOGC") != "": // the Go runtime reads it
	case m.limit > 0:
		debug.SetGCPercent(most) // the memory is reserved, so it may as well save CPU time
	default:
		BoundGarbage()
	}
	return m
}

// Shares of the memory limit: an eighth for cached aggregates, an eighth for records in flight, an eighth for prefetched records, and an eighth for
// the rows of the relay. About 16 consumer groups share the second and the third. When the relay reads a backlog, it reads a batch from each of
// 16 shards, and about eight such reads, of rows of 3 KiB, are in flight.
const (
	cacheShare  = 8
	groupsShare = 8 * 16
	relayShare  = 8 * 16 * 8 * (3 << 10)
)

// memoryFor returns the limit of a queue or a cache in bytes: a share of the memory limit, at least least and at most most. It returns most if there
// is no memory limit.
func memoryFor(most, share, least int) int {
	return int(min(int64(most), max(int64(least), debug.SetMemoryLimit(-1)/int64(share))))
}

// String returns the text for the banner.
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
