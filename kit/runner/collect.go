package runner

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// Limits of the growth of the heap until the next garbage collection. Messages are small and short-lived: with Go's default, 100 %, garbage
// collection takes a quarter of the time at full load.
const (
	most   = 400 // percent of the live heap
	least  = 100
	growth = 120 << 20 // bytes, between the two
)

var bounded sync.Once

// BoundGarbage configures the garbage collector of this process in the same way as a Program without a memory limit does: garbage grows to at most
// 120 MiB, or to the size of the live heap if that is more. Go's own settings cannot express this: GOGC is a percentage of the live heap, and
// GOMEMLIMIT must be above the largest live heap. Calls after the first one have no effect.
func BoundGarbage() {
	bounded.Do(func() { (&collection{}).adjust() })
}

// collection is unreachable as soon as it is adjusted, so that its finalizer runs after each collection.
type collection struct{ _ *byte } // the runtime may never run the finalizer of a tiny object without a pointer

func (c *collection) adjust() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(percent(live[0].Value.Uint64()))
	runtime.SetFinalizer(c, (*collection).adjust)
}

// percent is the value for debug.SetGCPercent at this size of the live heap in bytes.
func percent(live uint64) int {
	return int(max(least, min(most, 100*growth/max(live, 1)))) // at most 400
}
